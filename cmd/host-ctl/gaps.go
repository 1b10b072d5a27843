package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// gapsEvery is how often gaps are told of: a command that writes a lot makes
// thousands a second.
const gapsEvery = time.Second

// gaps tells of output that is lost, once in a while in one line.
type gaps struct {
	w *io.Writer // as it is at the time

	mu    sync.Mutex
	lost  [2]uint64 // not told yet
	last  time.Time
	timer *time.Timer
}

// note is a Cmd's OnGap.
func (g *gaps) note(fd int, _, n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost[fd-1] += n
	switch wait := gapsEvery - time.Since(g.last); {
	case g.timer != nil:
	case wait <= 0:
		g.say()
	default:
		g.timer = time.AfterFunc(wait, g.flush)
	}
}

// flush tells of what was not told yet. It may be called of nil.
func (g *gaps) flush() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	g.say()
}

// say is called under mu.
func (g *gaps) say() {
	var parts []string
	for i, n := range g.lost {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d bytes of %s", n, streamName(i+1)))
		}
	}
	g.lost = [2]uint64{}
	if len(parts) > 0 {
		g.last = time.Now()
		fmt.Fprintf(*g.w, "host-ctl: lost %s\n", strings.Join(parts, " and "))
	}
}
