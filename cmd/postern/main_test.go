package main

import (
	"context"
	"flag"
	"iter"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"postern/shared/agents"
	"postern/shared/model"
	"postern/shared/settings"
)

var update = flag.Bool("update", false, "rewrite the files that transcripts compare with")

// The programs that transcripts and tests start: ours, and the same server
// around a model that takes its time.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"postern":      func() { os.Exit(run()) },
		"slow-postern": func() { os.Exit(runSlowly()) },
	})
}

// runSlowly is `postern run` with the model slow/tide.
func runSlowly() int {
	slow := func(settings.Settings) (agents.Models, error) { return agents.Models{"slow": newTide()}, nil }
	s, file, models, err := configure(map[string]settings.Entry{}, slow)
	if err == nil {
		err = serve(untilSignal(), s, file, models)
	}
	if err != nil {
		os.Stderr.WriteString("slow-postern: " + strings.Join(faults(err), "\n") + "\n")
		return 1
	}
	return 0
}

// tide is a model that says one word at once and the next when the process gets
// SIGUSR1, so that a test says when it ends.
type tide struct{ turn chan os.Signal }

func newTide() tide {
	t := tide{make(chan os.Signal, 1)}
	signal.Notify(t.turn, syscall.SIGUSR1)
	return t
}

func (t tide) Stream(ctx context.Context, _ model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		if !yield(model.Event{Text: "ebb "}, nil) {
			return
		}
		select {
		case <-t.turn:
			if yield(model.Event{Text: "flow"}, nil) {
				yield(model.Event{Stop: model.EndTurn}, nil)
			}
		case <-ctx.Done():
			yield(model.Event{}, ctx.Err())
		}
	}
}

// Each transcript is what somebody does at a terminal; server_test.go and
// client_test.go have the commands beyond testscript's own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Deadline:            time.Now().Add(5 * patience), // of all of them, for a server that should have refused to start
		Setup: func(env *testscript.Env) error {
			env.Setenv("API_PORT", "0")                // so that servers don't meet
			env.Setenv("GORACE", "atexit_sleep_ms=10") // a second a process otherwise, under -race
			env.Values[serverKey{}] = new(*server)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":       serveCommand,
			"shutdown":    shutdownCommand,
			"crash":       crashCommand,
			"http":        httpCommand,
			"occupy":      occupyCommand,
			"certificate": certificateCommand,
			"secretless":  secretlessCommand,
			"within-hour": withinHourCommand,
			"remember":    rememberCommand,
			"rival":       rivalCommand,
		},
	})
}

// patience is how long a test waits for what should happen at once, on a machine
// that has much else to do.
const patience = time.Minute
