package archive

import (
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// receive takes in the receiver's messages until the last.
func (s *sender) receive() error {
	for {
		m := new(guestv1.UploadResponse)
		if err := s.st.RecvMsg(m); err != nil {
			return cut(err)
		}
		end, err := s.take(m)
		if end || err != nil {
			return err
		}
	}
}

// maxIdle bounds the messages in succession that say nothing new.
const maxIdle = 1000

func (s *sender) take(m *guestv1.UploadResponse) (end bool, err error) {
	s.mu.Lock()
	s.idle++ // until it turns out to be of use
	tooMany := s.idle > maxIdle
	s.mu.Unlock()
	if tooMany {
		return false, protocolFailure("%d messages that say nothing", maxIdle)
	}
	switch m := m.Message.(type) {
	case *guestv1.UploadResponse_Ready:
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ready {
			s.readyCRC = m.Ready.GetCrc()
		}
		s.ready, s.window = true, max(m.Ready.GetWindow(), PieceBytes)
		s.cond.Broadcast()
	case *guestv1.UploadResponse_Acknowledge:
		return false, s.acknowledged(m.Acknowledge)
	case *guestv1.UploadResponse_Decision:
		s.mu.Lock()
		s.idle = 0
		s.mu.Unlock()
		select {
		case s.decisions <- m.Decision:
		default:
			return false, protocolFailure("a decision on nothing")
		}
	case *guestv1.UploadResponse_Failure:
		s.mu.Lock()
		s.refused++
		s.idle = 0
		tooMany := s.refused > s.sentEntry
		s.mu.Unlock()
		if tooMany {
			return false, protocolFailure("more failures than entries")
		}
		s.done(Done{Failure: FailureOf(m.Failure), Remote: true})
	case *guestv1.UploadResponse_Finished:
		s.mu.Lock()
		early := !s.finishing
		s.finished = m.Finished
		all := &guestv1.Acknowledge{Bytes: s.sent, Entries: s.sentEntry}
		s.mu.Unlock()
		if early {
			return true, protocolFailure("the receiver has finished before the sender")
		}
		return true, s.acknowledged(all)
	}
	return false, nil
}

func (s *sender) acknowledged(a *guestv1.Acknowledge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.GetBytes() < s.acked || a.GetBytes() > s.sent || a.GetEntries() > s.sentEntry {
		return protocolFailure("%d bytes and %d entries acknowledged, of %d and %d", a.GetBytes(), a.GetEntries(), s.sent, s.sentEntry)
	}
	if a.GetBytes() > s.acked || a.GetEntries() > s.ackEntry {
		s.idle = 0
	}
	d := Done{Bytes: a.GetBytes() - s.acked}
	s.acked = a.GetBytes()
	n := 0
	for n < len(s.underway) && s.underway[n].Number <= a.GetEntries() {
		d.Position = &guestv1.Position{Source: s.underway[n].Source, Path: s.underway[n].Path}
		n++
	}
	clear(s.underway[:n])
	s.underway = s.underway[n:]
	s.ackEntry = max(s.ackEntry, a.GetEntries())
	s.cond.Broadcast()
	s.done(d)
	return nil
}
