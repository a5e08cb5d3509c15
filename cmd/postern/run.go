package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/compat"
	"postern/shared/idempotency"
	"postern/shared/jobs"
	"postern/shared/keys"
	"postern/shared/limit"
	"postern/shared/model/offline"
	"postern/shared/route"
	"postern/shared/secret"
	"postern/shared/sessions"
	"postern/shared/settings"
	"postern/shared/table"
	"postern/shared/table/sqlite"
	"postern/shared/usage"
)

// Bounds of a connection. A body has its own bound in package api, and a
// response may take as long as its chat.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10 // bytes; API Gateway takes 10,240

	stopMargin = 5 * time.Second // beyond CHAT_TIMEOUT, for the last words of a chat that used it up
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve the agents on this machine",
		Args:  noArguments,
	}
	flags := map[string]settings.Entry{}
	for _, f := range []struct{ setting, flag, usage string }{
		{"API_HOST", "host", "address to listen on (API_HOST, default 127.0.0.1)"},
		{"API_PORT", "port", "port to listen on (API_PORT, default 8080)"},
		{"AGENTS_FILE", "agents", "file of the agents (AGENTS_FILE, default agents.yaml)"},
		{"LOG_LEVEL", "log-level", "debug, info, warn or error (LOG_LEVEL, default info)"},
	} {
		cmd.Flags().Func(f.flag, f.usage, func(text string) error {
			flags[f.setting] = settings.Entry{Text: text, Origin: "--" + f.flag}
			return nil
		})
	}
	cmd.MarkFlagFilename("agents", "yaml", "yml")
	cmd.RunE = func(*cobra.Command, []string) error {
		s, file, models, err := configure(flags, models)
		if err != nil {
			return err
		}
		return serve(untilSignal(), s, file, models)
	}
	return cmd
}

// serve answers requests until ctx ends.
func serve(ctx context.Context, s settings.Settings, file *agents.File, models agents.Models) (err error) {
	var generated secret.String
	if s.Root == nil {
		generated = secret.Generate()
		digest := secret.DigestOf(generated.Reveal())
		s.Root = &digest
	}
	out := newLines(os.Stderr)
	defer out.flush()
	log := logger(out, s)
	store, err := sqlite.Open(sqlite.Config{Dir: s.DataDir, Err: func(err error) {
		log.Error("the data folder can't be used", "error", err)
	}})
	if err != nil {
		return fmt.Errorf("DATA_DIR: %w", err)
	}
	defer func() {
		if lost := store.Close(); lost != nil { // what was counted last
			err = errors.Join(err, fmt.Errorf("closing the data folder: %w", lost))
		}
	}()
	pool := jobs.NewPool(store, log)
	handler, worker, err := join(s, file, models, store, store.Sparing(), pool, log)
	if err != nil {
		return err
	}
	worker.Room = store.Room
	listener, err := listen(s)
	if err != nil {
		return err
	}
	running := startJobs(pool, worker)
	welcome(os.Stderr, listener.Addr(), s, file, generated)

	server := &http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
	defer runtime.KeepAlive(collectSoon())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		running.end()
		return err
	case <-ctx.Done():
	}
	running.stop()
	out.flush()
	fmt.Fprintln(os.Stderr, "[postern] stopping: finishing what is running (a second signal stops at once)")
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ChatTimeout+stopMargin)
	defer cancel()
	err = server.Shutdown(finish)
	running.finish(finish)
	if err != nil {
		return fmt.Errorf("stopped before every request was finished: %w", err)
	}
	return nil
}

// collectSoon lets garbage grow to a quarter of what is in use, instead of to as
// much again, which is memory that thousands of open streams can't have. An idle
// server has little in use and would collect all the time: so the result counts as
// used, though nobody touches it and it takes no memory. Who sets GOGC decides.
func collectSoon() []byte {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	debug.SetGCPercent(25)
	return make([]byte, 16<<20)
}

// join joins everything that one machine serves, and runs by and by. What callers
// store goes into callers, which is store with less of a right to the disk.
func join(s settings.Settings, file *agents.File, models agents.Models, store, callers table.Table, queue jobs.Queue, log *slog.Logger) (http.Handler, *jobs.Worker, error) {
	ledger := usage.New(store, log, nil)
	listing := agents.NewListing(file)
	conversations := &sessions.Store{Table: callers, Keep: s.SessionTTL}
	runs := &jobs.Store{Table: callers, Queue: queue}
	chat := &agents.Chat{
		File:     file,
		Models:   models,
		Timeout:  s.ChatTimeout,
		Ran:      ledger.Ran,
		Budget:   &usage.Budget{Table: store, Log: log},
		Sessions: conversations,
		Jobs:     runs,
	}
	handlers := map[string]api.Handler{
		"health":      api.Health,
		"agents.list": listing.List,
		"agents.get":  listing.Get,
		"whoami":      api.WhoAmI(s.RateLimit),
		"chat":        idempotency.New(callers, log, s.ChatTimeout, nil).Wrap(chat.Handle),
	}
	maps.Copy(handlers, compat.Listings(listing))
	maps.Copy(handlers, compat.Chats(chat))
	maps.Copy(handlers, compat.Jobs(runs))
	maps.Copy(handlers, conversations.Handlers())
	maps.Copy(handlers, runs.Handlers())
	maps.Copy(handlers, administration(store, ledger, s.RateLimit))
	handler, err := api.New(api.Config{
		Routes:   route.Table(),
		Handlers: handlers,
		Door: &api.LocalDoor{
			Verifier:  auth.NewVerifier(keys.NewSource(store, nil), configured(s)),
			Addresses: s.AllowedIPs,
			Proxies:   s.TrustedProxies,
			Flood:     &limit.Flood{},
			Open:      s.AuthDisabled,
			OpenHosts: !s.Loopback(),
		},
		Log:         log,
		Limiter:     ledger,
		Usage:       ledger,
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
		TLS:         s.TLSCert != "",
	})
	return handler, newWorker(s, store, chat, ledger, log), err
}

// administration is what administrators do, over a table: the server's, or the
// command line's beside it.
func administration(store table.Table, ledger *usage.Ledger, rateLimit int) map[string]api.Handler {
	chain := &audit.Log{Table: store}
	admin := &keys.Admin{Table: store, Audit: chain, DefaultRate: rateLimit, LastUsed: ledger.LastUsed}
	handlers := admin.Handlers()
	handlers["audit.list"], handlers["usage.list"] = chain.List, ledger.List
	return handlers
}

// configured is the credentials that the settings name.
func configured(s settings.Settings) *auth.Configured {
	source := new(auth.Configured).Add(*s.Root, auth.RootCaller())
	if s.Admin != nil {
		source.Add(*s.Admin, auth.AdminCaller())
	}
	for _, d := range s.Clients {
		source.Add(d, auth.ClientCaller(d))
	}
	return source
}

// listen opens the port, with TLS if it is configured.
func listen(s settings.Settings) (net.Listener, error) {
	address := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	network := "tcp"
	if a, err := netip.ParseAddr(s.Host); err == nil && a.Is4() {
		network = "tcp4" // else 0.0.0.0 would be every IPv6 address too
	}
	l, err := net.Listen(network, address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program: stop it, or choose another port with --port or API_PORT", address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s may not be opened by this user: choose a port above 1023 with --port or API_PORT", address)
	case err != nil:
		return nil, fmt.Errorf("%s can't be listened on (%w): set --host or API_HOST to an address of this machine", address, err)
	}
	if s.TLSCert == "" {
		return l, nil
	}
	pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("API_TLS_CERT and API_TLS_KEY: %w: they take a PEM certificate and the key that belongs to it", err)
	}
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}), nil
}

// logger writes JSON, or text for people where one is looking.
func logger(w io.Writer, s settings.Settings) *slog.Logger {
	if s.LogFormat == "text" || s.LogFormat == "" && terminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: s.LogLevel}))
	}
	return api.NewLogger(w, s.LogLevel)
}

// terminal reports whether f is one.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// offlineAgents lists the agents that no language model stands behind.
func offlineAgents(file *agents.File) string {
	var names []string
	for _, a := range file.Agents {
		if a.Model.String() == offline.FullName {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, ", ")
}
