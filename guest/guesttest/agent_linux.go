package guesttest

import (
	"log/slog"

	guestagent "github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
)

func newAgent() (agent, error) {
	return guestagent.New(&guestagent.Config{Logger: slog.New(slog.DiscardHandler), Access: access.Rules{Mode: access.ModeEmbedded}})
}
