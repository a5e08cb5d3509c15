package idempotency

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"

	"postern/shared/api"
	"postern/shared/auth"
)

// run answers by next, whose reply is kept if it is a success, and else the key
// is given back.
func (c *claim) run(next api.Handler, w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	kept := false
	defer func() {
		if !kept { // a panic too
			c.free(r.Context())
		}
	}()
	a := &answer{ResponseWriter: w}
	a.ended = func(body []byte) {
		kept = true
		c.keep(r.Context(), reply{a.status, w.Header().Get("Location"), body})
	}
	err := next(a, r, caller)
	return cmp.Or(err, a.finish())
}

// reply is a success as its caller sees it.
type reply struct {
	status   int
	location string
	body     []byte // JSON as api.Encode makes it
}

// answer is the response writer of a run. A stream passes through it, and its
// last event is the reply. Anything else waits in it until it is whole.
type answer struct {
	http.ResponseWriter
	ended func(body []byte) // is told the reply's JSON before its end is sent

	status int
	stream bool
	body   bytes.Buffer
}

// Unwrap lets http.ResponseController, and package api, find what is below.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.stream = a.Header().Get("Content-Type") == "text/event-stream"
	if a.stream {
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write takes a stream's frames as api.Stream writes them, each in one piece.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !a.stream {
		return a.body.Write(b)
	}
	if data, done := bytes.CutPrefix(b, []byte("event: done\ndata: ")); done {
		a.ended(data[:len(data)-1]) // without the blank line that ends the frame
	}
	return a.ResponseWriter.Write(b)
}

// finish sends what waits. A handler may have an error for the log beside a whole
// reply.
func (a *answer) finish() error {
	if a.stream || a.status == 0 {
		return nil
	}
	if a.status < 300 && a.Header().Get("Content-Type") == "application/json" && json.Valid(a.body.Bytes()) {
		a.ended(a.body.Bytes())
	}
	a.ResponseWriter.WriteHeader(a.status)
	_, err := a.ResponseWriter.Write(a.body.Bytes())
	return err
}

// replay sends a kept reply as this request wants it.
func (r *record) replay(w http.ResponseWriter, streamed bool) error {
	h := w.Header()
	h.Set("Idempotency-Replayed", "true")
	if r.Location != "" {
		h.Set("Location", r.Location)
	}
	if !streamed || r.Status != http.StatusOK {
		return api.WriteJSON(w, r.Status, json.RawMessage(r.reply))
	}
	var said struct {
		Response string `json:"response"`
	}
	if err := json.Unmarshal(r.reply, &said); err != nil {
		return err
	}
	stream := api.OpenStream(w)
	defer stream.Close()
	if err := stream.Send("delta", map[string]string{"delta": said.Response}); err != nil {
		return err
	}
	return stream.Send("done", json.RawMessage(r.reply))
}
