package raftnode

type logStore struct{}

func open(e *Endpoint, o Options) (*Node, error) { panic("skeleton") }
