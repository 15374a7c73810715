package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"
	"os"
	"log/slog"

	"logbroker/internal/protocol"
	"logbroker/config"
	"logbroker/producer"
)

func TestDebugCreate(t *testing.T) {
	c := Start(t, Options{Configure: func(f *config.Config) { if os.Getenv("PROD") != "" { d := config.Default(); f.Raft.RTT = d.Raft.RTT; f.Raft.ElectionRTT=d.Raft.ElectionRTT; f.Raft.HeartbeatRTT=d.Raft.HeartbeatRTT; f.Leaders = d.Leaders }}})
	lg := slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for k := 0; k < 1; k++ {
		name := fmt.Sprintf("t%d", k)
		if _, err := c.Client().Admin().CreateTopic(context.Background(), protocol.TopicCreateRequest{Name: name, Partitions: 6, Replicas: 3}); err != nil {
			t.Fatal(err)
		}
		p := c.produce(producer.WithLogger(lg))
		begin := time.Now()
		i := 0
		for ; time.Since(begin) < 600*time.Millisecond; i++ {
			t0 := time.Now()
			if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: name, Key: fmt.Appendf(nil, "%d", i), Value: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(t0); d > 100*time.Millisecond { t.Fail();
				t.Log(name, i, t0.Format("05.000"), time.Since(begin), d)
			}
		}
		t.Log(name, i)
	}
	if os.Getenv("LOGS") != "" { t.Fail() }
}
