package handler

import (
	"testing"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// The JSON of every request is decoded or refused by code.
func FuzzDecodeControl(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"t","partitions":3,"config":{"retention_bytes":"1GiB"}}`))
	f.Add([]byte(`{"version":1,"group":"g","member_id":"m","member_epoch":-1,"owned":[{"topic":"t","partitions":[0,1]}]}`))
	f.Add([]byte(`{"version":1,"shards":[1,18446744073709551615]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, req := range []any{
			new(protocol.TopicCreateRequest), new(protocol.TopicRequest), new(protocol.TransferLeaderRequest), new(protocol.RaftShowRequest),
			new(protocol.ReplicasRequest), new(protocol.NodeTransferRequest), new(protocol.NodeTrimRequest), new(protocol.NodeEnds),
			new(protocol.HeartbeatRequest), new(protocol.CommitRequest), new(protocol.GroupRequest), new(protocol.LeadersBroadcast),
		} {
			switch code := errcode.Of(decode(body, req)); code {
			case errcode.None, errcode.InvalidRequest, errcode.UnsupportedVersion:
			default:
				t.Errorf("%q as %T: %v", body, req, code)
			}
		}
	})
}
