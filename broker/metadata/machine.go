package metadata

import "github.com/lni/dragonboat/v4/statemachine"

func NewStateMachine(onImage func(*Image)) statemachine.IStateMachine { panic("skeleton") }

type planIDs struct {
	topic, shard uint64
	timeMs       int64
	request      string
}

func planTopic(m *Image, c createTopic, ids planIDs) (*Topic, error) { panic("skeleton") }

func (m *Image) mustBeFounded() error { return nil }
