package failures

// 1. The leader fails before the batch reaches it.
func beforeTheBatchArrives(p *play) {
	p.begin()
	p.do("The producer sends the next batch, and it is lost on its way to A: the batch is nowhere.",
		p.loseRequests,
		p.send,
		p.until("the batch is on its way", p.lostOnTheWay),
		p.must("A does not have it", p.notInLogOf(p.a)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.succeed()
	p.retry("The producer heard nothing from A, asks who leads now, and sends the batch again: to the new leader, which stores it.")
	p.comeBackAndFollow("A is back. Its log ends where it ended: the batch never came there.")
}
