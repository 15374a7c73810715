package failures

// 7. The leader is cut off from the majority, and lives on.
func cutOff(p *play) {
	p.begin()
	p.do("The network is cut: A on one side, B and C on the other. The producer is on A's side. A does not know it yet and believes that it leads.",
		func() error { p.apart(p.a); p.onItsSide(p.client, p.a); return nil },
		p.must("A believes that it leads", func() bool { return p.status(p.a).Role == "leader" }))
	p.do("The producer sends the next batch. A writes it to its own log, reaches no majority, and cannot commit it: no ack.",
		p.send,
		p.until("A has the batch in its log", p.inLogOf(p.a)),
		p.must("A has not committed it", p.notAppliedOn(p.a)),
		p.must("it is not acked", p.nothingAcked))
	p.do("B and C hear no heartbeats and elect a new leader, in a newer term. For a moment there are two leaders, and only one of them has a majority.",
		p.elect,
		p.must("A has committed nothing", p.notAppliedOn(p.a)))
	p.do("Another producer, on the other side of the cut, sends a batch to the new leader. It is committed there by two of three, and acked.",
		p.sendElsewhere)
	p.do("A has heard from no majority for an election time-out: it leads no more. The first producer has heard at most a refusal; it keeps trying, and its batch is not acked.",
		p.until("A does not lead any more", func() bool { return p.status(p.a).Role != "leader" }),
		p.until("ten election time-outs have gone by", p.tenTimeouts),
		p.must("A has committed nothing", p.notAppliedOn(p.a)),
		p.must("the batch is not acked", p.nothingAcked))
	if p.settings.Fault == Crash {
		p.do("And A crashes, cut off as it is.", func() error { return p.crash(p.a) })
	}
	p.do("The cut heals, only the partition's replica on A hears nothing yet: the batch still stands in its log, from the older term.",
		p.heal,
		p.until("A has its log", func() bool { return p.status(p.a).Last > 0 }),
		p.must("A still has its copy", p.inLogOf(p.a)))
	p.retry("The producer sends the batch again, now to the new leader. It is stored there, behind what was stored meanwhile, and acked.",
		p.reachAll)
	p.follow()
	p.finish()
}
