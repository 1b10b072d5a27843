package vsockdev

import (
	"context"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// add makes a link, if there is room for one more.
func (s *session) add(k key, f func(alloc uint32) flow) (*link, bool) {
	buffer, ok := s.budget.take()
	if !ok && s.evict() {
		buffer, ok = s.budget.take()
	}
	if !ok {
		return nil, false
	}
	l := &link{flow: f(uint32(buffer)), key: k, fd: -1, buffer: buffer, slot: s.dev.keeper.add(k)}
	s.links[k] = l
	return l, true
}

// evict ends the link whose host's side is closed for the longest time, and
// reports whether there was one. Its guest loses what it has not read.
func (s *session) evict() bool {
	for len(s.waiting) > 0 {
		l := s.waiting[0]
		s.waiting = s.waiting[1:]
		if !l.ended {
			l.flow.reset()
			l.drop()
			s.after(l)
			return true
		}
	}
	return false
}

// watch gives a link its socket, which is non-blocking and the link's now.
func (s *session) watch(l *link, fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		unix.Close(fd)
		return fmt.Errorf("watch a connection: %w", err)
	}
	for fd >= len(s.byFD) {
		s.byFD = append(s.byFD, nil)
	}
	s.byFD[fd] = l
	l.fd, l.writable = fd, true
	return nil
}

// after does what follows from a change of a link.
func (s *session) after(l *link) {
	if l.ended {
		return
	}
	l.flush(&s.vectors)
	if l.gone && (!l.readable || l.phase != phaseOpen) && l.shut != shutBoth {
		l.close(shutBoth)
	}
	if l.gone && l.phase == phaseOpen && !l.lingers {
		l.lingers = true
		s.linger(l)
	}
	l.finish()
	if l.phase == phaseOpen && l.opened != nil {
		l.opened(nil)
		l.opened = nil
	}
	if l.phase == phaseClosed {
		s.settle(l)
		return
	}
	if l.readable && l.shut&shutSend == 0 {
		l.starve()
	}
	if !l.queued && l.wantsGuest() {
		l.queued = true
		s.queue = append(s.queue, l)
	}
}

// linger notes a link that nobody on the host has any more: it waits for the
// guest to read what was sent to it.
func (s *session) linger(l *link) {
	s.waiting = append(s.waiting, l)
	if len(s.waiting) > 2*s.budget.max {
		live := s.waiting[:0]
		for _, w := range s.waiting {
			if !w.ended {
				live = append(live, w)
			}
		}
		s.waiting = live
	}
}

// settle takes a link out of the guest's reach, and forgets it as soon as the
// host's side has what the guest sent.
func (s *session) settle(l *link) {
	if !l.settled {
		l.settled = true
		delete(s.links, l.key)
		s.dev.keeper.remove(l.slot)
		h := s.headerOf(l)
		if l.next(&h) {
			s.resets = append(s.resets, h)
		}
		if l.opened != nil {
			l.opened(ErrRefused)
			l.opened = nil
		}
		if l.cancel != nil {
			l.cancel()
		}
		if l.conn != nil && l.peerShut&shutSend == 0 {
			l.conn.fail(ErrReset) // else the guest sent everything
		}
	}
	if len(l.out) == 0 || l.fd < 0 {
		s.forget(l)
	}
}

// forget gives up what a link has.
func (s *session) forget(l *link) {
	l.ended = true
	s.budget.give(l.buffer)
	if l.fd >= 0 {
		s.byFD[l.fd] = nil
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, l.fd, nil)
		unix.Close(l.fd)
	}
	l.out = nil
}

// endLinks ends all links, for a reason that calls and conns get.
func (s *session) endLinks(reason error) {
	end := func(l *link) {
		if l == nil || l.ended {
			return
		}
		if l.conn != nil {
			l.conn.fail(reason)
		}
		if l.opened != nil {
			l.opened(reason)
			l.opened = nil
		}
		l.phase, l.due = phaseClosed, 0
		l.drop()
		s.settle(l)
	}
	for _, l := range s.links {
		end(l)
	}
	for _, l := range s.byFD { // those that the guest is done with
		end(l)
	}
	s.queue, s.waiting = nil, nil
}

// An outgoing is a connection that the host asks for.
type outgoing struct {
	port       uint32
	privileged bool
	fd         int   // the host's side
	conn       *Conn // whose other end fd is, if any
	opened     func(hostPort uint32, err error)
}

// open starts a connection to the guest. Its descriptor is the session's.
func (s *session) open(o outgoing) *link {
	fail := func(err error) *link {
		unix.Close(o.fd)
		o.opened(0, err)
		return nil
	}
	if s.ctx.Err() != nil {
		return fail(context.Cause(s.ctx))
	}
	port, ok := s.ports.take(s.links, o.port, o.privileged)
	if !ok {
		return fail(fmt.Errorf("%w: no port is left on the host's side", ErrTooMany))
	}
	l, ok := s.add(key{guest: o.port, host: port}, request)
	if !ok {
		return fail(ErrTooMany)
	}
	l.opened = func(err error) { o.opened(port, err) }
	l.conn = o.conn
	if err := s.watch(l, o.fd); err != nil {
		l.opened(err)
		l.opened = nil
		l.phase, l.due = phaseClosed, 0
	}
	s.after(l)
	return l
}

// giveUp ends a connection that nobody waits for any more. l may be nil.
func (s *session) giveUp(l *link) {
	if l != nil && !l.ended {
		l.close(shutBoth)
		s.after(l)
	}
}

// requested takes a request of the guest for a connection.
func (s *session) requested(h *header) {
	k := key{guest: h.srcPort, host: h.dstPort}
	if s.pending >= s.dev.cfg.MaxPending {
		s.refusePacket(h)
		return
	}
	l, ok := s.add(k, func(alloc uint32) flow { return offered(alloc, h) })
	if !ok {
		s.dev.log.Warn("too many connections", "guest port", k.guest, "host port", k.host)
		s.refusePacket(h)
		return
	}
	dial := s.dev.dialer(k)
	if dial == nil {
		l.flow.reset()
		s.after(l)
		return
	}
	s.pending++
	ctx, cancel := context.WithCancel(s.ctx)
	l.cancel = cancel
	go func() {
		fd, conn, err := dial(ctx)
		cancel()
		if !s.post(func() { s.dialed(l, fd, conn, err) }) && fd >= 0 {
			unix.Close(fd)
		}
	}()
}

// dialed answers a request of the guest.
func (s *session) dialed(l *link, fd int, conn *Conn, err error) {
	s.pending--
	if l.settled || l.ended {
		if fd >= 0 {
			unix.Close(fd)
		}
		return
	}
	if err == nil {
		l.conn = conn
		err = s.watch(l, fd)
	}
	if err != nil {
		s.dev.log.Debug("a connection of the guest is refused", "host port", l.key.host, "err", err)
		l.flow.reset()
	} else {
		l.accept()
	}
	s.after(l)
}

// ports chooses ports for connections from the host: below 1024 for root, whom
// agents trust by that, and from 2^30 on for others, as Firecracker does.
type ports struct{ low, high uint32 }

const (
	lowPorts      = 1023
	firstHighPort = 1 << 30
)

// start begins somewhere, so that a guest which remembers connections of an
// earlier device does not take new ones for those.
func (p *ports) start() { p.low, p.high = rand.Uint32N(lowPorts), rand.Uint32N(firstHighPort) }

// take returns a port that no connection to the guest's port has.
func (p *ports) take(links map[key]*link, guest uint32, privileged bool) (uint32, bool) {
	next, tries := &p.high, firstHighPort
	if privileged {
		next, tries = &p.low, lowPorts
	}
	for range tries {
		*next++
		port := firstHighPort + *next%firstHighPort
		if privileged {
			port = 1 + *next%lowPorts
		}
		if links[key{guest: guest, host: port}] == nil {
			return port, true
		}
	}
	return 0, false
}
