package main

import (
	"context"
	"log/slog"

	"postern/shared/agents"
	"postern/shared/auth"
	"postern/shared/compat"
	"postern/shared/jobs"
	"postern/shared/keys"
	"postern/shared/settings"
	"postern/shared/table"
	"postern/shared/usage"
)

// newWorker returns what runs the jobs of this machine.
func newWorker(s settings.Settings, store table.Table, chat *agents.Chat, ledger *usage.Ledger, log *slog.Logger) *jobs.Worker {
	return &jobs.Worker{
		Store:   &jobs.Store{Table: store},
		Log:     log,
		Run:     chat.Run,
		Longest: s.ChatTimeout,
		Alone:   true, // the data folder is this process' own
		Present: present(s, store),
		Usage:   ledger,
		Courier: &jobs.Courier{},
		Notices: compat.Notices(),
	}
}

// present tells who a caller is now. Clients that are configured no longer are
// nobody.
func present(s settings.Settings, store table.Table) func(context.Context, auth.Caller) (auth.Caller, error) {
	issued, configured := keys.Present(store), configured(s)
	return func(ctx context.Context, was auth.Caller) (auth.Caller, error) {
		if was.Kind == auth.IssuedKey {
			return issued(ctx, was)
		}
		return configured.Present(was)
	}
}

// background is the jobs that run beside the server.
type background struct {
	stop, abandon context.CancelFunc
	ended         chan struct{}
}

// startJobs runs the jobs in pool.
func startJobs(pool *jobs.Pool, worker *jobs.Worker) *background {
	b := &background{ended: make(chan struct{})}
	var taking, working context.Context
	taking, b.stop = context.WithCancel(context.Background())
	working, b.abandon = context.WithCancel(context.Background())
	go func() {
		defer close(b.ended)
		pool.Run(taking, working, worker.Do)
	}()
	return b
}

// finish lets no more jobs begin, and those that run have until ctx ends. The
// others, and those that don't make it, begin at the next start.
func (b *background) finish(ctx context.Context) {
	b.stop()
	select {
	case <-b.ended:
	case <-ctx.Done():
	}
	b.end()
}

// end breaks off what runs.
func (b *background) end() {
	b.stop()
	b.abandon()
	<-b.ended
}
