//go:build linux

package process

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// watchQueue is how many events a watcher may fall behind.
const watchQueue = 256

// watcher is one WatchSessions call. All of it is under Server.mu but wake.
type watcher struct {
	queue []*guestv1.WatchSessionsResponse
	lost  uint64
	wake  chan struct{} // has a buffer of one
}

// WatchSessions implements guest.v1.ProcessService.
func (s *Server) WatchSessions(_ *guestv1.WatchSessionsRequest, stream grpc.ServerStreamingServer[guestv1.WatchSessionsResponse]) error {
	w := &watcher{wake: make(chan struct{}, 1)}
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

// publish queues an event for every watcher. One that has fallen behind loses
// the newest, and is told after what is queued.
func (s *Server) publish(event *guestv1.WatchSessionsResponse) {
	event.TimeUnixNanos = time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		if w.lost > 0 || len(w.queue) == watchQueue {
			w.lost++
		} else {
			w.queue = append(w.queue, event)
		}
		wake(w.wake)
	}
}

func (s *Server) publishStart(ses *session) {
	s.publish(&guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_Started{Started: ses.info()}})
}

func (s *Server) publishExit(ses *session) {
	s.publishOOM(ses)
	s.publish(&guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_Exited{Exited: ses.info()}})
}

// publishOOM tells of OOM kills in a session since the last time.
func (s *Server) publishOOM(ses *session) {
	kills := ses.group.oomKills()
	ses.mu.Lock()
	news := kills > ses.oomTold
	ses.oomTold = max(ses.oomTold, kills)
	ses.mu.Unlock()
	if news {
		s.publish(&guestv1.WatchSessionsResponse{Event: &guestv1.WatchSessionsResponse_OomKilled{OomKilled: ses.info()}})
	}
}
