package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// EnvLab is the environment variable that tells a test which lab it runs in.
const EnvLab = "VSOCKRPC_LAB"

// EnvPrograms is the environment variable that tells a test in the UML lab in
// which directory host-ctl and guest-agent are, as they are now.
const EnvPrograms = "VSOCKRPC_LAB_PROGRAMS"

// JobEnv is the environment variable, given to the init on the kernel command
// line, that holds the path of the [Job] file.
const JobEnv = "VSOCKRPC_LAB_JOB"

// A Job is what a lab's init does after the boot; the host writes it as JSON.
type Job struct {
	Modules []string // kernel module files to load, in order; one built in or loaded is no error
	Tmpfs   []string // where to mount a tmpfs
	Keep    string   // a directory that those must not hide
	Output  string   // the terminal for the tests' output and the marks; "" is the init's own
	Env     []string // the tests' whole environment, "KEY=VALUE"
	Runs    []Run    // run one after the other
}

// A Run is one program that a [Job] runs.
type Run struct {
	Name string // for the marks
	Path string
	Args []string // without argv[0]
	Dir  string   // working directory
}

// ReadJob reads the job in the file name.
func ReadJob(name string) (*Job, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	job := new(Job)
	if err := json.Unmarshal(data, job); err != nil {
		return nil, fmt.Errorf("read job %s: %w", name, err)
	}
	return job, nil
}

// encode returns the content of a job file.
func (j *Job) encode() []byte {
	data, err := json.Marshal(j)
	if err != nil {
		panic(err) // no field can fail
	}
	return data
}

// mark begins the lines by which the init tells the host how the job goes. It
// may stand behind output that did not end its line.
const mark = "\x01vsockrpc-lab\x01"

// An Event is one such line.
type Event struct {
	Kind string        // "start", "exit" (of Run), "error" (the job cannot go on), "done"
	Run  string        `json:",omitempty"`
	Code int           `json:",omitempty"` // of "exit": the exit code, 128+N for signal N
	Text string        `json:",omitempty"` // of "error"
	Took time.Duration `json:",omitempty"` // of "exit"
}

// Mark returns e as a line, with its newline.
func (e Event) Mark() string {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // no field can fail
	}
	return mark + string(data) + "\n"
}

// cutMark splits a line of output, without its newline, into what was printed
// and the event that ends it; ok tells whether there was one.
func cutMark(line string) (printed string, e Event, ok bool) {
	printed, data, ok := strings.Cut(line, mark)
	if !ok || json.Unmarshal([]byte(data), &e) != nil {
		return line, Event{}, false
	}
	return printed, e, true
}
