package main

import (
	"context"
	"errors"
	"fmt"

	"logbroker/internal/cli"
	"logbroker/internal/errcode"
)

// explain turns an error of the cluster into what the user reads: the message
// before the code's name, the exit code, and the next command to type. Errors
// that have an exit code already stay as they are.
func explain(err error) error {
	var done *cli.ExitError
	if err == nil || errors.As(err, &done) || errors.Is(err, cli.ErrOutputClosed) {
		return err
	}
	var refused *errcode.Error
	if errors.As(err, &refused) {
		text := fmt.Errorf("%s", readable(err))
		return &cli.ExitError{Code: exitCode(refused.Code), Err: text}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time: %w; see: logbroker cluster health, or raise --timeout", err)
	}
	return err
}

// readable puts a refusal as "message (NAME)", and what wraps it as it is.
func readable(err error) string {
	if same, ok := err.(*errcode.Error); ok && same.Message != "" { //nolint:errorlint // whether it is wrapped is the question
		return fmt.Sprintf("%s (%s)", same.Message, same.Code)
	}
	return err.Error()
}

func exitCode(c errcode.Code) int {
	switch c {
	case errcode.UnknownTopicOrPartition, errcode.UnknownTopicID, errcode.NodeNotFound, errcode.GroupIDNotFound:
		return cli.ExitUnhealthy
	}
	return cli.ExitFailure
}

// notFound is an error that exits with 3.
func notFound(format string, args ...any) error {
	return &cli.ExitError{Code: cli.ExitUnhealthy, Err: fmt.Errorf(format, args...)}
}

// aboutTopic puts the error of a request that names nothing but a topic: if
// something does not exist, it is the topic.
func aboutTopic(err error, topic string) error {
	switch errcode.Of(err) {
	case errcode.UnknownTopicOrPartition, errcode.UnknownTopicID:
		return notFound("no such topic %q; see: logbroker topic list", topic)
	}
	return err
}
