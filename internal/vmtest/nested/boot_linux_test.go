package nested

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
	"github.com/vsockrpc/vsockrpc/transport"
)

// bootLimit is how long a guest may boot. An emulated one takes 15 s.
const bootLimit = 2 * time.Minute

// dialTry is how long one try to reach a booting guest may take.
const dialTry = 2 * time.Second

// boot starts the guest and waits until somebody answers at addr; a guest that
// hangs is started once more. It returns what the dials met until then.
func (g *guest) boot(t *testing.T, addr transport.Addr) (kinds []transport.Kind) {
	t.Helper()
	for try := range 2 {
		start := time.Now()
		g.start(t, try > 0)
		ctx, cancel := context.WithTimeoutCause(t.Context(), bootLimit, fmt.Errorf("no answer within %v", bootLimit))
		kinds, err := dialUntilAnswered(ctx, addr)
		cancel()
		if err == nil {
			t.Logf("the guest answers after %v; until then: %v", time.Since(start).Round(time.Millisecond), kinds)
			return kinds
		}
		t.Logf("the guest does not boot: %v, %v; its console:\n%s", err, kinds, g.messages())
		g.kill()
	}
	t.Fatal("no guest")
	return nil
}

// dialUntilAnswered dials addr until somebody answers, and returns the kinds of
// errors until then, in order, without repetitions.
func dialUntilAnswered(ctx context.Context, addr transport.Addr) ([]transport.Kind, error) {
	var kinds []transport.Kind
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, dialTry)
		c, err := transport.Dial(try, addr, nil)
		if err == nil {
			cancel()
			return kinds, c.Close()
		}
		if ctx.Err() == nil {
			e, ok := errors.AsType[*transport.Error](err)
			if !ok || !e.Temporary() {
				cancel()
				return kinds, err
			}
			if !slices.Contains(kinds, e.Kind) {
				kinds = append(kinds, e.Kind)
			}
			if e.Kind != transport.KindGuestBooting { // it came at once
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
		cancel()
	}
	return kinds, context.Cause(ctx)
}

// checkKinds checks what dials meet while a guest boots.
func checkKinds(t *testing.T, inner vmtest.Inner, kinds []transport.Kind) {
	t.Helper()
	order := []transport.Kind{transport.KindNoSuchCID, transport.KindGuestBooting, transport.KindNotListening}
	last := -1
	for _, kind := range kinds {
		at := slices.Index(order, kind)
		if at <= last {
			t.Errorf("dials while booting: %v, want some of %v in this order", kinds, order)
		}
		last = at
	}
	// Where the guest boots within the kernel's time limit, it answers the
	// first dial that waits.
	if inner.Accel == "tcg" && !slices.Contains(kinds, transport.KindGuestBooting) {
		t.Errorf("dials while booting: %v, none of them %v", kinds, transport.KindGuestBooting)
	}
}

// dialKind dials addr, and returns the kind of the error.
func dialKind(t *testing.T, addr transport.Addr, limit time.Duration) transport.Kind {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := transport.Dial(ctx, addr, nil)
	if err == nil {
		c.Close()
		t.Fatalf("dial %v: somebody answered", addr)
	}
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		t.Fatalf("dial %v: %v, not a *transport.Error", addr, err)
	}
	return e.Kind
}
