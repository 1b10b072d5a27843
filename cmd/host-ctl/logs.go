package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use:   "logs [flags] GUEST SESSION",
		Short: "Print the output that a guest still has of a session",
		Long: `Print the output of a session that the guest still has, whether a client has read
it or not: the end of it, as much as the session's --ring holds. Of a session that
writes a lot while it is read, that is less. Its stdout goes to stdout and its
stderr to stderr. Nothing is consumed.`,
		ValidArgsFunction: c.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := guestArg(args, 1, 1)
			if err != nil {
				return err
			}
			if tail < -1 {
				return usageError{fmt.Errorf("--tail %d: want 0 or more", tail)}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				info, err := findSession(ctx, g, rest[0])
				if err != nil {
					return err
				}
				return c.logs(ctx, g, info, follow, tail)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the session ends")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "begin with the last N lines of each stream")
	return cmd
}

// logs prints a session's output: up to where it is now, or to its end.
func (c *cli) logs(ctx context.Context, g *guest.Guest, info *guestv1.SessionInfo, follow bool, tail int) error {
	id, err := guest.SessionIDFromBytes(info.SessionId)
	if err != nil {
		return err
	}
	k := g.Attach(ctx, id.String(), &guest.AttachOptions{Observer: true, FromOldest: true})
	pending := new(sync.WaitGroup)
	parts := [2]*logPart{
		{w: c.stdout, offset: info.StdoutFirst, until: info.StdoutEnd, tail: tail, follow: follow, pending: pending},
		{w: c.stderr, offset: info.StderrFirst, until: info.StderrEnd, tail: tail, follow: follow, pending: pending},
	}
	lost := &gaps{w: &c.stderr}
	defer lost.flush()
	if tail < 0 {
		noteDropped(lost, info)
	}
	for _, p := range parts {
		pending.Add(1)
		p.reached()
	}
	k.Stdout, k.Stderr = parts[0], parts[1]
	k.OnGap = func(fd int, offset, n uint64) {
		lost.note(fd, offset, n)
		parts[fd-1].skip(n)
	}
	if err := k.Start(); err != nil {
		return err
	}
	// This observer goes when all is there that was wanted.
	caughtUp := make(chan struct{})
	go func() {
		pending.Wait()
		close(caughtUp)
	}()
	var leave <-chan struct{}
	if !follow {
		leave = caughtUp
	}
	ended := make(chan error, 1)
	go func() { ended <- k.Wait() }()
	select {
	case err = <-ended:
	case <-leave:
		k.Process.Detach()
		err = <-ended
	case <-ctx.Done():
		k.Process.Detach()
		<-ended
		return ctx.Err()
	}
	for _, p := range parts {
		p.finish()
	}
	if _, ok := errors.AsType[*guest.ExitError](err); ok {
		return nil // how the command ended is not what was asked for
	}
	if e, ok := errors.AsType[*guest.Error](err); ok && e.Reason == guest.ReasonLeft {
		return nil
	}
	return err
}

// maxTail bounds what --tail holds back of a stream, and tailPiece is the size of the
// pieces that it is held in.
const (
	maxTail   = 8 << 20
	tailPiece = 64 << 10
)

// logPart is one stream of logs. Up to where the stream was at first it may
// hold the output back, to print only the last lines of it.
type logPart struct {
	w       io.Writer
	offset  uint64
	until   uint64
	tail    int  // -1: all
	follow  bool // print what comes after until too
	pending *sync.WaitGroup
	held    [][]byte
	done    bool
}

// Write implements io.Writer.
func (p *logPart) Write(b []byte) (int, error) {
	n := len(b)
	var later []byte
	if !p.done {
		at := min(uint64(n), p.until-min(p.until, p.offset))
		b, later = b[:at], b[at:]
		if err := p.before(b); err != nil {
			return 0, err
		}
	} else {
		later = b
	}
	p.offset += uint64(len(later))
	if p.follow && len(later) > 0 {
		if _, err := p.w.Write(later); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// before takes what was there at first.
func (p *logPart) before(b []byte) error {
	p.offset += uint64(len(b))
	if p.tail >= 0 {
		p.hold(b)
	} else if _, err := p.w.Write(b); err != nil {
		return err
	}
	return p.reached()
}

// hold holds b back, and lets go of the oldest.
func (p *logPart) hold(b []byte) {
	for len(b) > 0 {
		last := len(p.held) - 1
		if last < 0 || len(p.held[last]) == tailPiece {
			p.held = append(p.held, make([]byte, 0, tailPiece))
			last++
		}
		n := min(len(b), tailPiece-len(p.held[last]))
		p.held[last] = append(p.held[last], b[:n]...)
		b = b[n:]
	}
	for len(p.held) > maxTail/tailPiece {
		p.held[0] = nil
		p.held = p.held[1:]
	}
}

// skip notes that bytes are missing.
func (p *logPart) skip(n uint64) {
	p.offset += n
	p.reached()
}

// reached notes whether all that was there at first has come.
func (p *logPart) reached() error {
	if p.done || p.offset < p.until {
		return nil
	}
	return p.finish()
}

func (p *logPart) finish() error {
	if p.done {
		return nil
	}
	p.done = true
	defer p.pending.Done()
	held := lastLines(p.held, p.tail)
	p.held = nil
	for _, b := range held {
		if _, err := p.w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// lastLines returns the last n lines of pieces; the last line need not have ended.
func lastLines(pieces [][]byte, n int) [][]byte {
	if n <= 0 {
		return nil
	}
	end := true // of the last line
	for i, b := range slices.Backward(pieces) {
		stop := len(b)
		if end && stop > 0 && b[stop-1] == '\n' {
			stop--
		}
		end = end && len(b) == 0
		for {
			at := bytes.LastIndexByte(b[:stop], '\n')
			if at < 0 {
				break
			}
			if n--; n == 0 {
				return append([][]byte{b[at+1:]}, pieces[i+1:]...)
			}
			stop = at
		}
	}
	return pieces
}
