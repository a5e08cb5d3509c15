package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/joho/godotenv"
	"github.com/spf13/cobra"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/model/offline"
	"postern/shared/route"
	"postern/shared/secret"
	"postern/shared/settings"
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
	flags := map[string]*string{ // by setting
		"API_HOST":    cmd.Flags().String("host", "", "address to listen on (API_HOST, default 127.0.0.1)"),
		"API_PORT":    cmd.Flags().String("port", "", "port to listen on (API_PORT, default 8080)"),
		"AGENTS_FILE": cmd.Flags().String("agents", "", "file of the agents (AGENTS_FILE, default agents.yaml)"),
		"LOG_LEVEL":   cmd.Flags().String("log-level", "", "debug, info, warn or error (LOG_LEVEL, default info)"),
	}
	names := map[string]string{"API_HOST": "--host", "API_PORT": "--port", "AGENTS_FILE": "--agents", "LOG_LEVEL": "--log-level"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]settings.Entry{}
		for setting, value := range flags {
			given[setting] = settings.Entry{Text: *value, Origin: names[setting]}
		}
		models := agents.Models{"offline": offline.New()}
		s, file, err := configure(given, models)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), s, file, models)
	}
	return cmd
}

// configure reads the settings from all their layers, and the agents.
func configure(flags map[string]settings.Entry, models agents.Models) (settings.Settings, *agents.File, error) {
	layers := []settings.Layer{settings.Entries(flags), settings.Environment(os.Getenv)}
	for _, name := range []string{".env.local", ".env"} {
		values, err := godotenv.Read(name)
		switch {
		case err == nil:
			layers = append(layers, settings.Dotenv(name, values))
		case !errors.Is(err, fs.ErrNotExist):
			return settings.Settings{}, nil, dotenvError(name, err)
		}
	}
	s, err := settings.Parse(layers...)
	if err != nil {
		return settings.Settings{}, nil, err
	}
	file, err := models.Load(s.AgentsFile, s.Model)
	if err != nil {
		return settings.Settings{}, nil, err
	}
	s, err = settings.Parse(append(layers, deployLayer(file.Deploy))...)
	return s, file, err
}

// dotenvError never has the library's text, which repeats the line at fault: a
// secret, as likely as not.
func dotenvError(name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%s: a line is neither empty, a # comment nor NAME=value; values with spaces or # need quotes", name)
}

// deployLayer is the deploy.api block of agents.yaml as settings.
func deployLayer(d agents.Deploy) settings.Layer {
	entries := map[string]settings.Entry{}
	if d.Host.IsSet() {
		entries["API_HOST"] = settings.Entry{Text: d.Host.V, Origin: d.Host.Where}
	}
	if d.Port.IsSet() {
		entries["API_PORT"] = settings.Entry{Text: strconv.Itoa(d.Port.V), Origin: d.Port.Where}
	}
	if d.AuthEnabled.IsSet() {
		word := map[bool]string{true: "enabled", false: "disabled"}[d.AuthEnabled.V]
		entries["API_AUTH"] = settings.Entry{Text: word, Origin: d.AuthEnabled.Where}
	}
	if d.CORSEnabled.V {
		entries["CORS_ORIGINS"] = settings.Entry{Text: "*", Origin: d.CORSEnabled.Where,
			Warning: d.CORSEnabled.Where + ": pages of every origin may call the API; CORS_ORIGINS lists those that need it"}
	}
	if !d.AuthToken.IsSet() {
		return settings.Entries(entries)
	}
	entries["API_TOKEN"] = settings.Entry{Text: d.AuthToken.V.Reveal(), Origin: d.AuthToken.Where}
	return settings.Entries(entries, d.AuthToken.Where+": a token in a file that is shared is no secret; set API_TOKEN in .env instead")
}

// serve answers requests until ctx ends.
func serve(ctx context.Context, s settings.Settings, file *agents.File, models agents.Models) error {
	var generated secret.String
	if s.Root == nil {
		generated = secret.Generate()
		digest := secret.DigestOf(generated.Reveal())
		s.Root = &digest
	}
	out := newLines(os.Stderr)
	defer out.flush()
	log := logger(out, s)
	handler, err := handler(s, file, models, log)
	if err != nil {
		return err
	}
	listener, err := listen(s)
	if err != nil {
		return err
	}
	welcome(os.Stderr, listener.Addr(), s, file, generated)

	server := &http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(os.Stderr, "[postern] stopping: finishing what is running (a second signal stops at once)")
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ChatTimeout+stopMargin)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return fmt.Errorf("stopped before every request was finished: %w", err)
	}
	return nil
}

// handler joins everything that one machine serves.
func handler(s settings.Settings, file *agents.File, models agents.Models, log *slog.Logger) (http.Handler, error) {
	listing := agents.NewListing(file)
	chat := &agents.Chat{File: file, Models: models, Timeout: s.ChatTimeout}
	return api.New(api.Config{
		Routes: route.Table(),
		Handlers: map[string]api.Handler{
			"health":      api.Health,
			"agents.list": listing.List,
			"agents.get":  listing.Get,
			"whoami":      api.WhoAmI(s.RateLimit),
			"chat":        chat.Handle,
		},
		Door: &api.LocalDoor{
			Verifier:  auth.NewVerifier(configured(s)),
			Addresses: s.AllowedIPs,
			Proxies:   s.TrustedProxies,
			Flood:     &limit.Flood{},
			Open:      s.AuthDisabled,
			OpenHosts: !s.Loopback(),
		},
		Log:         log,
		Limiter:     limit.Hourly{Store: &limit.Memory{}},
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
		TLS:         s.TLSCert != "",
	})
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
	l, err := net.Listen("tcp", address)
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
		if a.Model.Provider == "offline" {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, ", ")
}
