package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"logbroker/internal/cli"
)

// confirm asks before something is destroyed. --yes answers; without a terminal
// to ask on it is required.
func (a *app) confirm(question string) error {
	if a.globals.yes {
		return nil
	}
	if !a.stdinTerminal {
		return cli.Usage("%s There is no terminal to answer on: add --yes", question)
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(a.stdin).ReadString('\n') // an end of input is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed, nothing was changed")
}
