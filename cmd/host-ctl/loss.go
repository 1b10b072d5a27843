package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// lossQuiet is how long a connection may be lost before anything is said of it.
const lossQuiet = 2 * time.Second

// loss says on stderr that the connection to a guest was lost, if it is not back within
// lossQuiet, and then that it is back.
type loss struct {
	say func(text string)

	mu    sync.Mutex
	since time.Time   // zero: not lost
	timer *time.Timer // until it is said; nil: it was
}

// sayLosses has a guest that is to be dialed tell of lost connections, which are made
// anew even if no call needs it.
func (c *cli) sayLosses(target string, cfg *guest.Config) {
	l := &loss{say: func(text string) {
		end := "\n"
		if isTerminal(c.stderr) {
			end = "\r\n" // it may be raw, with a line begun
			text = end + text
		}
		fmt.Fprintf(c.stderr, "%s%s", text, end)
	}}
	if c.quiet || cfg.Reconnect < 0 {
		return
	}
	about := "host-ctl: connection to " + visibleLine(target)
	cfg.OnLost = func(g *guest.Guest) { l.lost(about+" lost, reconnecting", func() { reconnect(g) }) }
	cfg.OnConnect = func(*guest.Guest, *guestv1.InfoResponse) { l.back(about + " is back") }
}

// lost notes that the connection was lost. Once it has been for long, it says text and
// calls again.
func (l *loss) lost(text string, again func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
	l.timer = time.AfterFunc(lossQuiet, func() {
		l.mu.Lock()
		lost := !l.since.IsZero()
		if lost {
			l.timer = nil
			l.say(text)
		}
		l.mu.Unlock()
		if lost {
			again()
		}
	})
}

// back notes that there is a connection.
func (l *loss) back(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.since.IsZero() && l.timer == nil {
		l.say(fmt.Sprintf("%s after %v", text, time.Since(l.since).Round(time.Second)))
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.since, l.timer = time.Time{}, nil
}

// reconnect calls the guest until it answers, or is closed.
func reconnect(g *guest.Guest) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := g.Info(ctx)
		cancel()
		if err == nil || !guest.Temporary(err) {
			return
		}
		time.Sleep(time.Second)
	}
}
