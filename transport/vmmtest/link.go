package vmmtest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A link is one connection through the VMM. It exists as soon as the host's
// side is there; the guest's side follows when it is known.
type link struct {
	vmm    *VMM
	host   stream
	number uint32        // the host's port, allotted by the VMM; 0 if there is none
	done   chan struct{} // closed when the link is over

	mu    sync.Mutex
	over  bool
	guest stream // nil until join

	pumps [2]*pump // to the guest, to the host; set by join

	halves  atomic.Int32 // directions that are over
	started atomic.Bool  // run was called

	// Guarded by vmm.mu.
	admitted    bool // counts as one of the VMM's connections
	established bool
}

func newLink(v *VMM, host stream) *link {
	return &link{vmm: v, host: host, done: make(chan struct{})}
}

// join adds the guest's side. If the link is over already it resets that side
// and returns false.
func (l *link) join(guest stream, seed uint64) bool {
	serial := l.vmm.serial.Add(2)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		guest.Reset()
		return false
	}
	l.guest = guest
	l.pumps = [2]*pump{
		{
			link: l, src: l.host, dst: guest, total: &l.vmm.toGuest,
			faults: func(m *mode) *Flow { return &m.ToGuest },
			rng:    rand.New(rand.NewPCG(seed, serial)),
		},
		{
			link: l, src: guest, dst: l.host, total: &l.vmm.toHost,
			faults: func(m *mode) *Flow { return &m.ToHost },
			rng:    rand.New(rand.NewPCG(seed, serial+1)),
		},
	}
	return true
}

// run carries bytes until the connection is over.
func (l *link) run() {
	l.started.Store(true)
	var wg sync.WaitGroup
	for _, p := range l.pumps {
		wg.Go(p.run)
	}
	wg.Wait()
	<-l.done // a pump that has dropped the end of the data leaves the link open
}

func (l *link) fromHost(p *pump) bool { return p == l.pumps[0] }

// halfDone notes that one direction is over, and closes the link when both are.
func (l *link) halfDone() {
	if l.halves.Add(1) == 2 {
		l.close()
	}
}

// close ends the link in an orderly way.
func (l *link) close() {
	l.end(func(s stream) { s.Close() })
}

// reset ends the link so that both sides see a reset.
func (l *link) reset() {
	if l.end(stream.Reset) && l.vmm.isEstablished(l) {
		l.vmm.resets.Add(1)
	}
}

// end ends the link, unless it is over already.
func (l *link) end(closeStream func(stream)) bool {
	l.mu.Lock()
	over, guest := l.over, l.guest
	if !over {
		l.over = true
		close(l.done)
	}
	l.mu.Unlock()
	if over {
		return false
	}
	closeStream(l.host)
	if guest != nil {
		closeStream(guest)
	}
	l.vmm.remove(l)
	return true
}

// strike lets the faults happen that are due.
func (l *link) strike(m *mode) {
	if !l.started.Load() {
		return // the pumps will see the mode
	}
	for _, p := range l.pumps {
		p.strike(m)
	}
}

// sleep waits, and returns false if the link is over before.
func (l *link) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}
