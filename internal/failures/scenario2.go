package failures

// 2. The leader fails when the batch is in its own log only.
func inTheLeadersLogOnly(p *play) {
	p.begin()
	p.do("The producer sends the next batch. A writes it to its own log, on disk, but what it sends to B and C is lost. "+
		"One copy of three is no majority: it is not committed, and the producer gets no ack.",
		p.lose(p.entriesTo(p.b, p.c)),
		p.send,
		p.until("A has the batch in its log", p.inLogOf(p.a)),
		p.must("B does not have it", p.notInLogOf(p.b)),
		p.must("C does not have it", p.notInLogOf(p.c)),
		p.must("it is not acked", p.nothingAcked))
	p.fail()
	p.succeed()
	p.retry("The producer sends the batch again, to the new leader. It is the first copy there, so it is stored, and acked.")
	p.comeBackAndFollow("A is back, with its old copy still in its log: from an older term, never committed, never acked.")
}
