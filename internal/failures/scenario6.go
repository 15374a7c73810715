package failures

// 6. The leader fails when the batch is committed and applied everywhere, before
// it could answer.
func beforeTheAnswer(p *play) {
	p.begin()
	p.do("The producer sends the next batch. It is replicated, committed, and applied by all three. Only A's answer is lost on its way to the producer.",
		p.loseAnswers,
		p.send,
		p.until("A has applied the batch", p.appliedOn(p.a)),
		p.until("B has applied the batch", p.appliedOn(p.b)),
		p.until("C has applied the batch", p.appliedOn(p.c)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.succeed()
	p.retry("The producer sends the batch again. The new leader knows its number, does not store it again, and answers with the offset of the first copy.")
	p.comeBackAndFollow("A is back, with everything in its log. How much of it is committed it will hear from the new leader.")
}
