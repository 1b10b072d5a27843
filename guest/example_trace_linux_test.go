package guest_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"strings"

	"google.golang.org/grpc/stats"

	"github.com/vsockrpc/vsockrpc/guest"
)

type spanKey struct{}

// span is a part of a trace, as W3C Trace Context names it. A program that uses
// OpenTelemetry takes its trace.Span, and otelgrpc's stats handler in the place of spans.
type span struct{ trace, id string }

// newSpan returns a span below that of ctx.
func newSpan(ctx context.Context) span {
	var b [24]byte
	rand.Read(b[:])
	s := span{hex.EncodeToString(b[:16]), hex.EncodeToString(b[16:])}
	if parent, ok := ctx.Value(spanKey{}).(span); ok {
		s.trace = parent.trace
	}
	return s
}

func (s span) traceparent() string { return "00-" + s.trace + "-" + s.id + "-01" }

// spans is a stats.Handler that makes a span of each call.
type spans struct{ ended chan string }

func (s spans) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, spanKey{}, newSpan(ctx))
}

func (s spans) HandleRPC(ctx context.Context, e stats.RPCStats) {
	if end, ok := e.(*stats.End); ok && end.Error == nil {
		select {
		case s.ended <- ctx.Value(spanKey{}).(span).trace:
		default: // nobody looks
		}
	}
}

func (spans) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (spans) HandleConn(context.Context, stats.ConnStats)                       {}

// A trace that goes through a command: each call is a span, and the program finds the
// trace in its environment.
func ExampleConfig_tracing() {
	addr, stop := exampleAgent()
	defer stop()
	handler := spans{make(chan string, 100)}
	g, err := guest.Dial(context.Background(), addr, &guest.Config{StatsHandlers: []stats.Handler{handler}})
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	for len(handler.ended) > 0 {
		<-handler.ended // of Dial
	}

	request := newSpan(context.Background())
	ctx := context.WithValue(context.Background(), spanKey{}, request)
	cmd := g.Command(ctx, "sh", "-c", "echo $TRACEPARENT")
	cmd.ExtraEnv = []string{"TRACEPARENT=" + request.traceparent()}
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the program has the trace:", strings.Contains(string(out), request.trace))
	fmt.Println("the call has it:", <-handler.ended == request.trace)
	// Output:
	// the program has the trace: true
	// the call has it: true
}
