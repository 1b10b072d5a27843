//go:build linux

package process

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// watchQueue is how many events a watcher may fall behind.
const watchQueue = 256

// watcher is one WatchSessions call. All of it is under Server.mu but wake.
type watcher struct {
	to    charge.Account
	queue []*guestv1.WatchSessionsResponse
	lost  uint64
	wake  chan struct{} // has a buffer of one
}

// WatchSessions implements guest.v1.ProcessService.
func (s *Server) WatchSessions(_ *guestv1.WatchSessionsRequest, stream grpc.ServerStreamingServer[guestv1.WatchSessionsResponse]) error {
	w := &watcher{to: charge.From(stream.Context()), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.watchers[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}()
	// So that the client knows from when on it misses nothing.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		events, lost := w.queue, w.lost
		w.queue, w.lost = nil, 0
		s.mu.Unlock()
		if lost > 0 {
			events = append(events, &guestv1.WatchSessionsResponse{
				Event:         &guestv1.WatchSessionsResponse_Lost{Lost: lost},
				TimeUnixNanos: time.Now().UnixNano(),
			})
		}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.stopping.Done():
			return stoppingFault()
		}
	}
}

// publish queues an event about a session for every watcher, with what each sees of
// it. One that has fallen behind loses the newest, and is told after what is queued.
func (s *Server) publish(ses *session, event func(*guestv1.SessionInfo) *guestv1.WatchSessionsResponse) {
	info, now := ses.info(), time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		if w.lost > 0 || len(w.queue) == watchQueue {
			w.lost++
		} else {
			e := event(ses.show(w.to, info))
			e.TimeUnixNanos = now
			w.queue = append(w.queue, e)
		}
		wake(w.wake)
	}
}

func (s *Server) publishStart(ses *session) {
	s.publish(ses, func(i *guestv1.SessionInfo) *guestv1.WatchSessionsResponse {
		return &guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_Started{Started: i}}
	})
}

func (s *Server) publishExit(ses *session) {
	s.publishOOM(ses)
	s.publish(ses, func(i *guestv1.SessionInfo) *guestv1.WatchSessionsResponse {
		return &guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_Exited{Exited: i}}
	})
}

// publishOOM tells of OOM kills in a session since the last time.
func (s *Server) publishOOM(ses *session) {
	ses.mu.Lock()
	killed := ses.st.exit.GetOomKilled()
	ses.mu.Unlock()
	if !killed && (ses.group == nil || !ses.group.limited) {
		return
	}
	kills := ses.group.oomKills()
	ses.mu.Lock()
	news := kills > ses.oomTold
	ses.oomTold = max(ses.oomTold, kills)
	ses.mu.Unlock()
	if news {
		s.publish(ses, func(i *guestv1.SessionInfo) *guestv1.WatchSessionsResponse {
			return &guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_OomKilled{OomKilled: i}}
		})
	}
}
