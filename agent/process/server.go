//go:build linux

package process

import (
	"container/list"
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Server implements guest.v1.ProcessService. It is made by NewServer and safe
// for concurrent use.
type Server struct {
	guestv1.UnimplementedProcessServiceServer
	cfg      Config
	accounts account.Files
	uid, gid uint32 // the agent's own
	umask    int    // the agent's own, -1 if not known
	memory   *memory
	oom      *oomGuard
	cgroups  *cgroups
	stuck    tally           // launchers that were given up
	starting context.Context // ends when nothing may start any more
	noStarts context.CancelFunc
	stopping context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup // of every session's run
	closing  sync.Once

	mu       sync.Mutex
	sessions map[sessionID]*session
	names    map[sessionName]*session // the last with each name
	places   *charge.Pool             // of those that run, or are about to
	over     *list.List               // of *session, those that have ended, oldest first
	gone     forgotten
	seq      uint64
	closed   bool
	late     time.Time // of Close
	watchers map[*watcher]bool
	clients  int           // that are attached, or wait for a session
	idle     chan struct{} // of Close: closed when the last client has gone
}

var _ guestv1.ProcessServiceServer = (*Server)(nil)

// NewServer returns a Server; a nil cfg means defaults. The caller ends it with
// Close.
func NewServer(cfg *Config) *Server {
	s := &Server{
		cfg:      cfg.withDefaults(),
		uid:      uint32(os.Geteuid()),
		gid:      uint32(os.Getegid()),
		umask:    ownUmask(),
		sessions: make(map[sessionID]*session),
		names:    make(map[sessionName]*session),
		over:     list.New(),
		watchers: make(map[*watcher]bool),
	}
	s.places = charge.NewPool(int64(s.cfg.MaxSessions))
	s.memory = newMemory(s.cfg.MaxRingsTotal)
	s.oom = newOOMGuard(s.cfg.Protect)
	if s.cfg.Cgroup {
		var err error
		if s.cgroups, err = newCgroups(s.cfg.Protect); err != nil {
			s.cfg.Logger.Info("no cgroups for sessions", "err", err)
		}
	}
	s.starting, s.noStarts = context.WithCancel(context.Background())
	s.stopping, s.stop = context.WithCancel(context.Background())
	return s
}

// lastWords is how long clients have, when the agent stops, to take what is left
// of their sessions' output and how those ended.
const lastWords = time.Second

// reapTime is how long Close waits for processes after their KILL. One that waits
// for a file system that does not answer does not end by that either.
const reapTime = 3 * time.Second

// Close ends every session (HUP, TERM, and KILL 2 s later) and returns when all
// are reaped, or 3 s after their KILL. Starts that are under way fail. Clients that
// are attached are told how their sessions ended, if they take it in time; other
// calls that are open end with Unavailable. Close may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var all []*session
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	s.noStarts()
	for _, ses := range all {
		<-ses.ready
		if ses.startErr == nil {
			ses.hangUp("the agent stops")
		}
	}
	late := time.NewTimer(time.Until(s.closeBy()))
	defer late.Stop()
	stuck := s.awaitSessions(all, late.C)
	s.awaitClients()
	s.stop()
	if len(stuck) > 0 {
		s.cfg.Logger.Error("sessions outlived SIGKILL", "pids", stuck)
	} else {
		s.wg.Wait()
	}
	for _, ses := range all {
		s.forget(ses)
	}
	s.closing.Do(s.cgroups.close)
	return nil
}

// closeBy is when Close gives up, however often it is called.
func (s *Server) closeBy() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late.IsZero() {
		s.late = time.Now().Add(killAfter + reapTime)
	}
	return s.late
}

// awaitSessions waits until sessions are over or it is late, and returns the pids of
// those that are not over then.
func (s *Server) awaitSessions(all []*session, late <-chan time.Time) (stuck []int) {
	for _, ses := range all {
		if ses.startErr != nil {
			continue
		}
		select {
		case <-ses.done:
			continue
		case <-late:
			late = alreadyLate
		}
		if !ses.isOver() {
			stuck = append(stuck, ses.child.pid)
		}
	}
	return stuck
}

// alreadyLate is received from without waiting.
var alreadyLate = func() chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// enter counts a client of a session, until the returned function is called.
func (s *Server) enter() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.clients--; s.clients == 0 && s.idle != nil {
			close(s.idle)
			s.idle = nil
		}
	}
}

// awaitClients waits until there are no clients, for lastWords at most.
func (s *Server) awaitClients() {
	s.mu.Lock()
	if s.clients == 0 {
		s.mu.Unlock()
		return
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
	case <-s.stopping.Done(): // by another Close
	case <-time.After(lastWords):
	}
}

// open returns the session with an id, after starting it if there is none;
// found says that there was one. A new one is charged to an account.
func (s *Server) open(account charge.Account, id []byte, spec *guestv1.SessionSpec, policy guestv1.OwnerGone) (ses *session, found bool, err error) {
	if len(id) != len(sessionID{}) {
		return nil, false, newFault(codes.InvalidArgument, reasonBadSpec, "a session id has 16 bytes, not %d", len(id))
	}
	s.mu.Lock()
	ses, found = s.sessions[sessionID(id)]
	if !found {
		ses, err = s.admit(account, sessionID(id), spec, policy)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	if found {
		<-ses.ready
		return ses, true, ses.startErr
	}
	if ses.startErr = ses.start(); ses.startErr != nil {
		s.drop(ses)
		close(ses.ready)
		return nil, false, ses.startErr
	}
	close(ses.ready)
	s.cfg.Logger.Info("session started", "session", ses.id, "pid", ses.child.pid, "uid", ses.cmd.account.UID)
	return ses, false, nil
}

// admit enters a new session in the table. It is called under mu.
func (s *Server) admit(account charge.Account, id sessionID, spec *guestv1.SessionSpec, policy guestv1.OwnerGone) (*session, error) {
	switch {
	case s.closed:
		return nil, stoppingFault()
	case s.gone.has(id):
		return nil, goneFault(id)
	case spec == nil:
		return nil, noSession(id.String())
	}
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	if other := s.names[sessionName{account.ID, spec.Name}]; spec.Name != "" && other != nil && !other.isOver() {
		return nil, newFault(codes.AlreadyExists, reasonNameTaken, "a session called %q runs", spec.Name)
	}
	if spec.OwnerGone != guestv1.OwnerGone_OWNER_GONE_UNSPECIFIED {
		policy = spec.OwnerGone
	}
	if r := s.places.Take(account, 1); r != nil {
		return nil, newFault(codes.ResourceExhausted, reasonTooMany, "too many sessions run: %v", r).
			Hint("end some, or raise the agent's limit")
	}
	ringBytes := spec.RingBytes
	if ringBytes == 0 {
		ringBytes = defaultRing
	}
	s.seq++
	s.wg.Add(1)
	ses := &session{
		srv: s, account: account, id: id, spec: spec, policy: policy, seq: s.seq,
		grace: defaultGrace, retention: defaultRetention,
		ready: make(chan struct{}), done: make(chan struct{}),
		fed: make(chan struct{}, 1),
		st:  newState(s.memory.of(account), min(ringBytes, s.cfg.MaxRingBytes), spec.RingFull == guestv1.RingFull_RING_FULL_DROP_OLDEST, policy),
	}
	for i := range ses.room {
		ses.room[i] = make(chan struct{}, 1)
	}
	if spec.OwnerGraceMillis != nil {
		ses.grace = millis(*spec.OwnerGraceMillis)
	}
	if spec.RetentionMillis != nil {
		ses.retention = min(millis(*spec.RetentionMillis), maxRetention)
	}
	s.sessions[id] = ses
	if spec.Name != "" {
		s.names[ses.named()] = ses
	}
	return ses, nil
}

// drop takes a session that could not start out of the table.
func (s *Server) drop(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(ses)
	s.places.Give(ses.account, 1)
	s.wg.Done()
}

// remove is called under mu.
func (s *Server) remove(ses *session) {
	delete(s.sessions, ses.id)
	if s.names[ses.named()] == ses {
		delete(s.names, ses.named())
	}
}

// find returns a session that has started, by id or, if that is empty, by name: the
// caller's own or, for one who may touch others', the newest.
func (s *Server) find(ctx context.Context, id []byte, name string) (*session, error) {
	s.mu.Lock()
	var ses *session
	var gone bool
	what := name
	if len(id) == len(sessionID{}) {
		ses, gone, what = s.sessions[sessionID(id)], s.gone.has(sessionID(id)), sessionID(id).String()
	} else if len(id) == 0 && name != "" {
		ses = s.called(ctx, name)
	}
	s.mu.Unlock()
	switch {
	case gone:
		return nil, goneFault(sessionID(id))
	case ses == nil:
		return nil, noSession(what)
	}
	<-ses.ready
	if ses.startErr != nil {
		return nil, noSession(what)
	}
	return ses, nil
}

// ended is called by a session once it has its exit.
func (s *Server) ended(ses *session) {
	exit := ses.info().Exit
	s.cfg.Logger.Info("session ended", "session", ses.id, "pid", ses.child.pid,
		"code", exit.GetCode(), "signal", exit.Signal, "reason", exit.Reason)
	s.publishExit(ses)
	s.mu.Lock()
	s.places.Give(ses.account, 1)
	ses.element = s.over.PushBack(ses)
	ses.expire = time.AfterFunc(ses.retention, func() { s.forget(ses) })
	var old *session
	if s.over.Len() > s.cfg.MaxEnded {
		old = s.oldestOfMost()
	}
	s.mu.Unlock()
	ses.mu.Lock()
	consumed := ses.consumed
	ses.mu.Unlock()
	if consumed || ses.retention == 0 {
		s.forget(ses)
	}
	if old != nil {
		s.forget(old)
	}
}

// oldestOfMost returns the oldest session that has ended, of the caller with the
// most of them: nobody pushes out the results of others. It is called under mu.
func (s *Server) oldestOfMost() *session {
	n := make(map[string]int)
	var old *session
	for e := s.over.Back(); e != nil; e = e.Prev() {
		n[e.Value.(*session).account.ID]++
	}
	for e := s.over.Front(); e != nil; e = e.Next() {
		if ses := e.Value.(*session); old == nil || n[ses.account.ID] > n[old.account.ID] {
			old = ses
		}
	}
	return old
}

// Owner returns who has started a session that is there, running or ended.
func (s *Server) Owner(id string) (account string, exists bool) {
	if len(id) != len(sessionID{}) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.sessions[sessionID([]byte(id))]; ses != nil {
		return ses.account.ID, true
	}
	return "", false
}

// forget takes a session that has ended out of the table, for good; it does
// nothing to others. Clients that are attached still get all there is.
func (s *Server) forget(ses *session) {
	s.mu.Lock()
	over := ses.element != nil
	if over {
		s.over.Remove(ses.element)
		ses.element = nil
		s.remove(ses)
		s.gone.add(ses.id)
		ses.expire.Stop()
	}
	s.mu.Unlock()
	if !over {
		return
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.forgotten = true
	if len(ses.st.readers) == 0 {
		ses.st.dropAll()
	}
}

// list returns the sessions that have started, oldest first.
func (s *Server) list() []*session {
	s.mu.Lock()
	var all []*session
	for _, ses := range s.sessions {
		select {
		case <-ses.ready:
			all = append(all, ses)
		default:
		}
	}
	s.mu.Unlock()
	all = slices.DeleteFunc(all, func(ses *session) bool { return ses.startErr != nil })
	slices.SortFunc(all, func(a, b *session) int { return int(a.seq) - int(b.seq) })
	return all
}

func (s *session) isOver() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// maxForgotten bounds how many ids of forgotten sessions are known.
const maxForgotten = 1 << 16

// forgotten knows the ids of the last sessions that were forgotten, so that a
// start which is repeated late does not run its program again.
type forgotten struct {
	ids  map[sessionID]bool
	last []sessionID // a ring
	next int
}

func (f *forgotten) has(id sessionID) bool { return f.ids[id] }

func (f *forgotten) add(id sessionID) {
	if f.ids == nil {
		f.ids = make(map[sessionID]bool)
	}
	if len(f.last) < maxForgotten {
		f.last = append(f.last, id)
	} else {
		delete(f.ids, f.last[f.next])
		f.last[f.next] = id
		f.next = (f.next + 1) % maxForgotten
	}
	f.ids[id] = true
}
