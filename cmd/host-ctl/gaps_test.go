package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGaps: of thousands of gaps a second one line is printed, and none is missing.
func TestGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		var w io.Writer = &out
		g := &gaps{w: &w}
		for range 2500 {
			g.note(1, 0, 10)
			g.note(2, 0, 1)
			time.Sleep(time.Millisecond)
		}
		g.flush()
		g.flush()
		var told [2]uint64
		for line := range strings.Lines(out.String()) {
			var n [2]uint64
			fmt.Sscanf(line, "host-ctl: lost %d bytes of stdout and %d bytes of stderr\n", &n[0], &n[1])
			told[0], told[1] = told[0]+n[0], told[1]+n[1]
		}
		if n := strings.Count(out.String(), "\n"); n != 4 || told != [2]uint64{25000, 2500} {
			t.Errorf("%d lines tell of %v bytes, want 4 of 25000 and 2500:\n%s", n, told, out.String())
		}
	})
}
