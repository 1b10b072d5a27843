package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// noticeEvery is how often the same forward tells of trouble: a client that
// tries again and again would fill the terminal.
const noticeEvery = 5 * time.Second

// notices tells of trouble on stderr, once in a while.
type notices struct {
	w     io.Writer
	about string

	mu      sync.Mutex
	last    time.Time
	skipped int
}

func (n *notices) say(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); !n.last.IsZero() && now.Sub(n.last) < noticeEvery {
		n.skipped++
		return
	} else {
		n.last = now
	}
	more := ""
	if n.skipped > 0 {
		more = fmt.Sprintf(" (and %d times before)", n.skipped)
		n.skipped = 0
	}
	fmt.Fprintf(n.w, "host-ctl: %s: %s%s\n", visibleLine(n.about), visibleLine(err.Error()), more)
}
