package groups

import "logbroker/internal/errcode"

// commandVersion is the first byte of every entry. An entry means the same on
// every node for ever: whoever changes what one does gives it a new version.
const commandVersion = 1

// entry is one entry of a coordinator shard's log: either it opens an epoch, or
// it has operations of the coordinator of an epoch. Operations of many groups
// and members travel in one entry. Every entry carries the epoch, which is
// checked when it is applied. Its bytes (see coder for numbers, texts and lists):
//
//	1 byte    version = 1
//	int32     epoch
//	uint64    replica
//	int64     time, ms
//	uint64    number of operations, then each
type entry struct {
	Epoch int32
	// Replica opens Epoch for that replica; the entry then has no operations.
	// 0 = the entry has operations.
	Replica uint64
	// TimeMs is the coordinator's clock, because applying has none.
	TimeMs int64
	Ops    []operation
}

// opKind is the kind of an operation. A kind is never renumbered.
type opKind byte

// Kinds of operations.
const (
	opJoin    opKind = 1  // a member joins, or changes its subscription
	opReport  opKind = 2  // a member tells what it still owns
	opAway    opKind = 3  // a static member leaves for a while
	opRemove  opKind = 4  // a member leaves, or is fenced
	opTarget  opKind = 5  // the coordinator's new assignment
	opCommit  opKind = 6  // a member commits offsets
	opStore   opKind = 7  // offsets without membership: seek and plain commits
	opForget  opKind = 8  // offsets are deleted
	opPurge   opKind = 9  // offsets of deleted topics go
	opDelete  opKind = 10 // the group is deleted
	opExpired opKind = 11 // the group was empty for too long
)

// String returns the kind's name, for logs.
func (k opKind) String() string {
	names := [...]string{"none", "join", "report", "away", "remove", "target", "commit", "store", "forget", "purge", "delete", "expired"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// moves reports whether an operation of this kind may change who is a member or
// who owns what; the others are about offsets.
func (k opKind) moves() bool {
	switch k {
	case opCommit, opStore, opForget, opPurge:
		return false
	default:
		return true
	}
}

// operation is one change of one group. Which fields count depends on Kind.
type operation struct {
	Kind  opKind
	Group string
	// Member speaks or is spoken of. Epoch is its member epoch as the coordinator
	// was told (report, commit) or saw it (remove; -1: whatever it is).
	Member string
	Epoch  int32

	Joining  *joining     // join
	Owned    []Partition  // report
	Revision int32        // target: the membership it was made for
	Topics   []topicCount // target: the topics it was made for
	Targets  []target     // target
	Sequence int64        // commit
	Offsets  []commit     // commit, store
	Forget   []forgotten  // forget
	Gone     []uint64     // purge: ids of topics that are no more
	SinceMs  int64        // expired: the mark the coordinator saw
}

// joining is what a member says of itself. The tags are the snapshot's.
type joining struct {
	InstanceID  string   `json:"instance,omitempty"`
	ClientID    string   `json:"client,omitempty"`
	Host        string   `json:"host,omitempty"`
	Topics      []string `json:"topics"` // sorted, each once
	SessionMs   int64    `json:"session"`
	RebalanceMs int64    `json:"rebalance"`
	Metadata    []byte   `json:"meta,omitempty"`
}

// target is what a member should have, sorted.
type target struct {
	Member     string
	Partitions []Partition
	// Assignment is opaque: what a leader of Kafka's classic protocol made for the
	// member. Nothing here reads it.
	Assignment []byte
}

// commit is one offset to be stored.
type commit struct {
	Partition
	Offset   int64
	Metadata string
}

// forgotten names offsets to delete: all of the topic's where Numbers is empty.
type forgotten struct {
	Topic   uint64
	Name    string
	Numbers []int32
}

// entryOpsMax bounds the operations of one entry.
const entryOpsMax = 8192

// The least bytes of an element of a list, so that a length that cannot be is
// refused before memory is taken for it.
const (
	operationBytesMin = 4 // kind, group, member, epoch
	partitionBytesMin = 2
	commitBytesMin    = partitionBytesMin + 2
	targetBytesMin    = 3
	topicBytesMin     = 3
	forgottenBytesMin = 3
	refusalBytesMin   = 4
)

func (e *entry) code(x *coder) {
	x.int32(&e.Epoch)
	x.uint64(&e.Replica)
	x.int64(&e.TimeMs)
}

// code is the format of an operation: kind, group, member and member epoch, then
// the fields that count for the kind.
func (o *operation) code(x *coder) {
	x.byte((*byte)(&o.Kind))
	x.text(&o.Group)
	x.text(&o.Member)
	x.int32(&o.Epoch)
	switch o.Kind {
	case opJoin:
		if x.reading {
			o.Joining = &joining{}
		}
		o.Joining.code(x)
	case opReport:
		list(x, &o.Owned, partitionBytesMin, (*Partition).code)
	case opTarget:
		x.int32(&o.Revision)
		list(x, &o.Topics, topicBytesMin, (*topicCount).code)
		list(x, &o.Targets, targetBytesMin, (*target).code)
	case opCommit:
		x.int64(&o.Sequence)
		list(x, &o.Offsets, commitBytesMin, (*commit).code)
	case opStore:
		list(x, &o.Offsets, commitBytesMin, (*commit).code)
	case opForget:
		list(x, &o.Forget, forgottenBytesMin, (*forgotten).code)
	case opPurge:
		list(x, &o.Gone, 1, func(id *uint64, x *coder) { x.uint64(id) })
	case opExpired:
		x.int64(&o.SinceMs)
	case opAway, opRemove, opDelete:
	default:
		x.fail()
	}
}

func (j *joining) code(x *coder) {
	x.text(&j.InstanceID)
	x.text(&j.ClientID)
	x.text(&j.Host)
	list(x, &j.Topics, 1, func(name *string, x *coder) { x.text(name) })
	x.int64(&j.SessionMs)
	x.int64(&j.RebalanceMs)
	x.blob(&j.Metadata)
}

func (p *Partition) code(x *coder) {
	x.uint64(&p.Topic)
	x.int32(&p.Number)
}

func (t *topicCount) code(x *coder) {
	x.uint64(&t.ID)
	x.text(&t.Name)
	x.int32(&t.Partitions)
}

func (t *target) code(x *coder) {
	x.text(&t.Member)
	list(x, &t.Partitions, partitionBytesMin, (*Partition).code)
	x.blob(&t.Assignment)
}

func (c *commit) code(x *coder) {
	c.Partition.code(x)
	x.int64(&c.Offset)
	x.text(&c.Metadata)
}

func (f *forgotten) code(x *coder) {
	x.uint64(&f.Topic)
	x.text(&f.Name)
	list(x, &f.Numbers, 1, func(n *int32, x *coder) { x.int32(n) })
}

// encode returns an entry's bytes.
func encode(e entry) []byte {
	ops := make([][]byte, len(e.Ops))
	for i, op := range e.Ops {
		ops[i] = encodeOperation(op)
	}
	return encodeWith(e, ops)
}

// encodeWith is encode with the operations encoded already.
func encodeWith(e entry, ops [][]byte) []byte {
	size := 32 // more than the head
	for _, op := range ops {
		size += len(op)
	}
	x := coder{b: append(make([]byte, 0, size), commandVersion)}
	e.code(&x)
	x.length(len(ops), operationBytesMin)
	for _, op := range ops {
		x.b = append(x.b, op...)
	}
	return x.b
}

func encodeOperation(op operation) []byte {
	x := coder{b: make([]byte, 0, 64+16*len(op.Offsets))}
	op.code(&x)
	if x.bad {
		panic("groups: an operation of an unknown kind")
	}
	return x.b
}

// decode reads an entry; ok is false where data is none, or of a newer version.
func decode(data []byte) (e entry, ok bool) {
	if len(data) == 0 || data[0] != commandVersion {
		return entry{}, false
	}
	x := coder{reading: true, b: data[1:]}
	e.code(&x)
	if n := x.length(0, operationBytesMin); n > entryOpsMax {
		x.fail()
	} else {
		e.Ops = make([]operation, n)
	}
	for i := range e.Ops {
		e.Ops[i].code(&x)
	}
	return e, !x.bad && len(x.b) == 0
}

// Verdicts on an entry, in the Raft result's value.
const (
	verdictApplied = iota // the operations have outcomes in the result's data
	verdictFenced         // the entry's epoch is not the current one: nothing was done
	verdictOpened         // the epoch is the entry's now
	verdictStale          // the epoch was overtaken: nothing was done
	verdictUnknown        // the entry cannot be read or is of a newer version
)

// outcome is what an operation came to. Codes has one code per offset of a
// commit or topic of a forget, or is empty where all is done.
type outcome struct {
	Code    errcode.Code
	Message string
	Codes   []errcode.Code
}

func (o *outcome) fine() bool { return o.Code == errcode.None && len(o.Codes) == 0 }

// err returns the refusal in o, nil where there is none.
func (o outcome) err() error {
	if o.Code == errcode.None {
		return nil
	}
	return errcode.New(o.Code, "%s", o.Message)
}

func refused(c errcode.Code, format string, args ...any) outcome {
	return outcome{Code: c, Message: errcode.New(c, format, args...).Message}
}

// refusal is an outcome that is not fine, of the operation with that number.
type refusal struct {
	at uint64
	outcome
}

func (r *refusal) code(x *coder) {
	x.uint64(&r.at)
	codeErr(&r.Code, x)
	x.text(&r.Message)
	list(x, &r.Codes, 1, codeErr)
}

func codeErr(c *errcode.Code, x *coder) {
	wide := int32(*c)
	x.int32(&wide)
	if *c = errcode.Code(wide); int32(*c) != wide {
		x.fail()
	}
}

// encodeOutcomes returns the outcomes of an entry's operations: nothing where
// all are fine, else the list of the others, each with its place.
func encodeOutcomes(outcomes []outcome) []byte {
	var no []refusal
	for i := range outcomes {
		if !outcomes[i].fine() {
			no = append(no, refusal{uint64(i), outcomes[i]})
		}
	}
	if no == nil {
		return nil
	}
	var x coder
	list(&x, &no, refusalBytesMin, (*refusal).code)
	return x.b
}

// decodeOutcomes reads the outcomes of n operations.
func decodeOutcomes(data []byte, n int) (outcomes []outcome, ok bool) {
	outcomes = make([]outcome, n)
	if len(data) == 0 {
		return outcomes, true
	}
	x := coder{reading: true, b: data}
	var no []refusal
	list(&x, &no, refusalBytesMin, (*refusal).code)
	for _, r := range no {
		if r.at >= uint64(n) || r.fine() {
			return nil, false
		}
		outcomes[r.at] = r.outcome
	}
	return outcomes, !x.bad && len(x.b) == 0
}
