package protocol

import "testing"

func TestRaftGroupsAreNamedAsPeopleCallThem(t *testing.T) {
	for name, want := range map[string]RaftShowRequest{
		"metadata":    {},
		"groups/3":    {GroupShard: new(int32(3))},
		"orders/0":    {Topic: "orders"},
		"metadata/12": {Topic: "metadata", Partition: 12},
	} {
		got, ok := RaftShowOf(name)
		same := got.Topic == want.Topic && got.Partition == want.Partition && (got.GroupShard == nil) == (want.GroupShard == nil)
		if !ok || !same || got.GroupShard != nil && *got.GroupShard != *want.GroupShard || got.Version != ControlVersion {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
	for _, name := range []string{"", "orders", "groups", "groups/", "groups/x", "groups/-1", "orders/0/1", "/0", "orders/4294967296"} {
		if got, ok := RaftShowOf(name); ok {
			t.Errorf("%q is taken for %+v", name, got)
		}
	}
	if GroupShardName(3) != "groups/3" {
		t.Error(GroupShardName(3))
	}
}
