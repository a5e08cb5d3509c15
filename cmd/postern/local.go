package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"os"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/settings"
	"postern/shared/table"
	"postern/shared/table/sqlite"
	"postern/shared/usage"
)

// openFolder makes the client of a data folder, which a server may be using
// meanwhile. Only to create a key one is made: a list of a new folder would tell
// of no keys where there are some, elsewhere.
func openFolder(dir string, create bool) (*client, error) {
	if _, err := os.Stat(dir); create && errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "making the data folder %s\n", dir)
	}
	store, err := sqlite.Beside(sqlite.Config{Dir: dir, Existing: !create})
	switch {
	case !create && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no data folder %s, or no database in it: name it with --data or DATA_DIR, or a server with --url; `postern run` and `postern keys create` make one", dir)
	case err != nil:
		return nil, err
	}
	c, err := overTable(store, os.Stderr)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	c.close = store.Close
	return c, nil
}

// overTable makes the client of what is in a table: the handlers of /keys and
// /audit in this process, for a caller who may do everything, since whoever can
// write to the table can. The head of each act goes to audited.
func overTable(store table.Table, audited io.Writer) (*client, error) {
	notes := &notes{audited: audited}
	log := slog.New(notes)
	ledger := usage.New(store, log, nil)
	handler, err := api.New(api.Config{
		Routes:   route.Of(route.KeysFunction),
		Handlers: administration(store, ledger, 0),
		Door:     console{},
		Log:      log,
		Limiter:  ledger,
	})
	return &client{transport: inProcess{handler}, notes: notes}, err
}

// dataFolder is where the data folder is, as `postern run` would find it. Of the
// settings it reads this one alone, so no fault of another is in the way; and
// what stands in a layer below one that has it isn't looked at.
func dataFolder(flag string) (string, error) {
	layers := []settings.Layer{
		settings.Entries(map[string]settings.Entry{"DATA_DIR": {Text: flag, Origin: "--data"}}),
		settings.Environment(os.Getenv),
	}
	if flag == "" && os.Getenv("DATA_DIR") == "" {
		for _, name := range []string{".env.local", ".env"} {
			values, err := readDotenv(name)
			if err != nil {
				return "", err
			}
			layers = append(layers, settings.Dotenv(name, values))
		}
	}
	for i, layer := range layers {
		layers[i].Lookup = func(name string) settings.Entry {
			if name != "DATA_DIR" {
				return settings.Entry{}
			}
			return layer.Lookup(name)
		}
	}
	s, err := settings.Parse(layers...)
	return s.DataDir, err
}

// console is the door for who sits at this machine.
type console struct{}

// Arrival implements api.Door.
func (console) Arrival(*http.Request) (string, netip.Addr) {
	return rand.Text(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Admit implements api.Door.
func (console) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	c := auth.RootCaller()
	c.ID = "local" // in created_by and the audit log
	return c, nil
}

// inProcess is a handler as a transport.
type inProcess struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &recorder{header: http.Header{}}
	p.ServeHTTP(w, r)
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body)}, nil
}

// recorder is an http.ResponseWriter into memory. The frame writes a status
// before anything else.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// notes takes from the log what who sits at this machine wants of it: why the
// last request failed, and where each act stands in the audit log (P12).
type notes struct {
	cause   string
	audited io.Writer
}

func (*notes) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (n *notes) Handle(_ context.Context, r slog.Record) error {
	n.cause = ""
	var seq, hash string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "error":
			n.cause = a.Value.String()
		case "audit_seq":
			seq = a.Value.String()
		case "audit_hash":
			hash = a.Value.String()
		}
		return true
	})
	if seq != "" {
		fmt.Fprintf(n.audited, "audit %s:%s\n", seq, hash)
	}
	return nil
}

func (n *notes) WithAttrs([]slog.Attr) slog.Handler { return n }
func (n *notes) WithGroup(string) slog.Handler      { return n }
