package failures

// 5. The leader fails when it has committed the batch and the followers do not
// know that.
func committedInSecret(p *play) {
	p.begin()
	p.do("The producer sends the next batch. A passes it on, B and C have it on their disks; A has not heard of that yet.",
		p.loseAnswers,
		p.lose(p.confirmationsToA),
		p.send,
		p.until("B has the batch in its log", p.inLogOf(p.b)),
		p.until("C has the batch in its log", p.inLogOf(p.c)))
	p.do("Now A hears of it: a majority has the batch, so A commits and applies it. That it is committed does not reach B and C any more, nor does the answer reach the producer.",
		p.lose(p.commitsFromA()),
		p.until("A has committed the batch", p.appliedOn(p.a)),
		p.must("B does not know that", p.notAppliedOn(p.b)),
		p.must("C does not know that", p.notAppliedOn(p.c)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.do("B and C elect a new leader. It has the batch and commits it, with the first entry of its own term.",
		p.elect,
		p.until("the new leader has committed the batch", func() bool { return p.appliedOn(p.leaderNow())() }))
	p.retry("The producer sends the batch again. The new leader knows its number, does not store it again, and answers with the offset of the first copy.")
	p.comeBackAndFollow("A is back. What it had committed is what the others have committed since.")
}
