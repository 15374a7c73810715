package failures

// 3. The leader fails when every follower has the batch, before it could commit it.
func inEveryFollowersLog(p *play) {
	p.begin()
	p.do("The producer sends the next batch. A writes it to its log and passes it on, B and C write it to theirs. "+
		"But their confirmations are lost: A cannot know that a majority has it, so it does not commit it and does not answer.",
		p.lose(p.confirmationsToA),
		p.send,
		p.until("B has the batch in its log", p.inLogOf(p.b)),
		p.until("C has the batch in its log", p.inLogOf(p.c)),
		p.until("A has the batch in its log", p.inLogOf(p.a)),
		p.must("A has not committed it", p.notAppliedOn(p.a)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.do("B and C elect a new leader. It has the batch, from the old term; by committing the first entry of its own term it commits all that lies before it.",
		p.elect,
		p.until("the new leader has committed the batch", func() bool { return p.appliedOn(p.leaderNow())() }))
	p.retry("The producer does not know that, and sends the batch again. The new leader sees by producer and number that it is stored, does not store it again, and answers with the offset of the first copy.")
	p.comeBackAndFollow("A is back, with the batch in its log, and does not know yet that it is committed.")
}
