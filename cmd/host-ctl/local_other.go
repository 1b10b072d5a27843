//go:build !linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
)

func maybeRunLauncher() {}

// localAgent stands for the embedded agent, which exists on Linux only.
type localAgent struct{}

func startLocal(*slog.Logger) (*localAgent, error) {
	return nil, errors.New("the guest \"local\" needs Linux")
}

func (*localAgent) dial(context.Context) (net.Conn, error) { return nil, net.ErrClosed }

func (*localAgent) close() {}
