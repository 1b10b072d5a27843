package file

import (
	"bytes"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// inotifyLimits has the kernel's limits for one user.
const inotifyLimits = "/proc/sys/fs/inotify/"

// watchRoom counts the inotify instances of all calls. The kernel charges them, and
// the directories that are watched, to the agent's user, whoever a call acts as;
// half of what that user may have is left to others, such as systemd.
type watchRoom struct {
	most int

	mu    sync.Mutex
	calls map[uint32]int // by the user they act as
	all   int
}

func newWatchRoom() watchRoom {
	return watchRoom{most: half(inotifyLimits+"max_user_instances", 512), calls: make(map[uint32]int)}
}

// half returns half of the number in a file, and no more than most.
func half(file string, most int) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return most
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return most
	}
	return min(max(n/2, 1), most)
}

// enter takes a place for a call that acts as a user, until leave is called. One user
// other than the agent's has half of all places.
func (r *watchRoom) enter(uid uint32) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := r.most
	if int(uid) != os.Geteuid() {
		most = max(most/2, 1)
	}
	if r.all >= r.most || r.calls[uid] >= most {
		return nil, fault.New(codes.ResourceExhausted, "watches-exhausted", "%d calls watch files, %d of them for user %d", r.all, r.calls[uid], uid).
			Hint("raise fs.inotify.max_user_instances and restart the agent, or watch less")
	}
	r.all++
	r.calls[uid]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.calls[uid]--; r.calls[uid] == 0 {
			delete(r.calls, uid)
		}
	}, nil
}
