package guest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{rate: 1000}
		begun := time.Now()
		for range 100 {
			if err := p.moved(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10,000 bytes at 1000 a second took %v", took)
		}
		time.Sleep(time.Minute) // what could have moved meanwhile is not made up for
		begun = time.Now()
		for range 20 {
			p.moved(t.Context(), 100)
		}
		if took := time.Since(begun); took < 1500*time.Millisecond {
			t.Errorf("after a pause 2000 bytes took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.moved(ctx, 1<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that ends: %v", err)
		}
		if err := (&pace{}).moved(t.Context(), 1<<30); err != nil || time.Since(begun) > time.Minute {
			t.Errorf("without a bound: %v", err)
		}
	})
}
