package wait

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failed string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	panic(r)
}

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		For(t, "end of 3 s", func() bool { return time.Since(start) >= 3*time.Second })
		if d := time.Since(start); d > 3100*time.Millisecond {
			t.Errorf("looked again after %v only", d)
		}
		r := &recorder{TB: t}
		defer func() {
			if recover() != r || !strings.Contains(r.failed, ": sunrise") {
				t.Errorf("failed with %q", r.failed)
			}
			if d := time.Since(start); d < Limit {
				t.Errorf("gave up after %v", d)
			}
		}()
		For(r, "sunrise", func() bool { return false })
	})
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		<-Context(t).Done()
		if d := time.Since(start); d != Limit {
			t.Errorf("it ended after %v", d)
		}
	})
	var ctx context.Context
	t.Run("ends with its test", func(t *testing.T) { ctx = Context(t) })
	if ctx.Err() == nil {
		t.Error("it outlives its test")
	}
}
