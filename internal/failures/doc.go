// Package failures plays the seven ways in which the leader of a partition can
// fail, on a real cluster: three whole brokers in this process, the public
// producer library, and Raft between them. Each is a story (scenario1.go to
// scenario7.go) that holds the cluster exactly at its stage, makes the leader crash
// or stop there, and ends when all is well again; internal/history then judges
// what the producers were told against the final log of every replica.
//
// The stories are told to whoever watches, step by step, so the same ones are the
// tests and `logbrokerd demo`. They never sleep: a step is over when what it
// tells has happened.
//
// Start with scenario2.go, then play.go for the words that the stories use,
// ending.go for how all of them end, and judge.go for the outcome. stage.go is the
// cluster and what it stands on: file systems in memory that forget what was not
// synced (a crash), a Raft network that loses messages by sender, addressee, type
// and content (rules.go), and wires between producers and brokers that can be held
// or lose one direction (wires.go).
package failures
