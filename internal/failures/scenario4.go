package failures

// 4. The leader fails when one follower has the batch and the other has not.
func inOneFollowersLog(p *play) {
	p.begin()
	p.do("The producer sends the next batch. It reaches B, but on the way to C it is lost; and so is B's confirmation, so A does not commit it.",
		p.lose(either(p.entriesTo(p.c), p.confirmationsToA)),
		p.send,
		p.until("B has the batch in its log", p.inLogOf(p.b)),
		p.until("A has the batch in its log", p.inLogOf(p.a)),
		p.must("C does not have it", p.notInLogOf(p.c)),
		p.must("A has not committed it", p.notAppliedOn(p.a)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.do("C is the first to stand for election. B does not vote for it: C's log ends before B's does.",
		func() error { p.mayStand(p.c); return nil },
		p.until("B has refused C", func() bool { return p.hasRefused(p.b, p.c) }),
		p.must("nobody leads", func() bool { return p.leader() == nil }))
	p.do("Then B stands, and C votes for it: B's log is more complete. B leads in a new term, gives C what it lacks, and so commits the batch.",
		p.elect,
		p.must("B leads", func() bool { return p.leader() == p.b }),
		p.until("B has committed the batch", p.appliedOn(p.b)),
		p.until("C has the batch in its log", p.inLogOf(p.c)))
	p.retry("The producer sends the batch again. B knows its number, does not store it again, and answers with the offset of the first copy.")
	p.comeBackAndFollow("A is back, with the batch in its log, and does not know yet that it is committed.")
}
