package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

const (
	progressAfter = 500 * time.Millisecond // what is done before needs no progress
	progressEvery = 100 * time.Millisecond
	linesEvery    = 10 * time.Second // where there is no terminal
)

// progress shows how far a copy is: in one line of a terminal, or elsewhere now
// and then in another one.
type progress struct {
	c     *cli
	shown bool
	on    bool
	lines bool
	begin time.Time
	mu    sync.Mutex
	last  time.Time
}

func (c *cli) newProgress(quiet bool) *progress {
	now := time.Now()
	return &progress{c: c, on: !quiet, lines: !isTerminal(c.stderr), begin: now, last: now}
}

// update is for guest.CopyOptions.Progress.
func (p *progress) update(now guest.CopyProgress) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now()
	if p.lines {
		if at.Sub(p.last) >= linesEvery {
			p.last = at
			fmt.Fprintf(p.c.stderr, "host-ctl: %s\n", progressLine(now, at.Sub(p.begin)))
		}
		return
	}
	if at.Sub(p.begin) < progressAfter || at.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = at, true
	line := progressBar(now) + progressLine(now, at.Sub(p.begin))
	if _, columns, ok := p.c.windowSize(); ok {
		if r := []rune(line); len(r) >= columns && columns > 1 {
			line = string(r[:columns-1])
		}
	}
	fmt.Fprintf(p.c.stderr, "\r\x1b[K%s", line)
}

const barWidth = 20

// progressBar draws how much of a copy is done, if that is known.
func progressBar(now guest.CopyProgress) string {
	if now.Files > 1 || now.Total == 0 || now.Bytes > now.Total {
		return ""
	}
	n := int(barWidth * now.Bytes / now.Total)
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "] "
}

// progressLine says how far a copy is that began so long ago.
func progressLine(now guest.CopyProgress, since time.Duration) string {
	rate := float64(now.Bytes) / since.Seconds()
	line := fmt.Sprintf("%s/s %s", size(uint64(rate)), size(now.Bytes))
	if now.Total > now.Bytes && now.Files == 1 && rate > 0 {
		left := time.Duration(float64(now.Total-now.Bytes) / rate * float64(time.Second))
		line += fmt.Sprintf(" of %s, %d%%, %s left", size(now.Total), now.Bytes*100/now.Total, left.Round(time.Second))
	}
	if now.Files > 1 {
		line += fmt.Sprintf(", %d files", now.Files)
	}
	return line + "  " + visibleLine(now.Path)
}

// end removes the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.c.stderr, "\r\x1b[K")
	}
	p.on = false
}
