package natsapi

import "testing"

func TestANodeThatLeavesIsNoPlaceForLeadership(t *testing.T) {
	servers, _ := serveCluster(t, 2)
	eventually(t, "node 1 hears node 2", func() bool { return servers[0].Alive(2) })
	servers[1].Leave()
	eventually(t, "node 1 knows that node 2 leaves", func() bool { return !servers[0].Alive(2) })
	if !servers[1].Alive(2) || !servers[1].Alive(1) {
		t.Error("the leaving node sees itself or the other one as gone")
	}
}
