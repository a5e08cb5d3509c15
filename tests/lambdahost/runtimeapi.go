package lambdahost

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
)

const (
	streamedType = "application/vnd.awslambda.http-integration-response"
	// maxPrelude is how far API Gateway looks for the end of the metadata.
	maxPrelude = 16 << 10

	errorTypeTrailer = "Lambda-Runtime-Function-Error-Type"
	errorBodyTrailer = "Lambda-Runtime-Function-Error-Body"
)

var preludeEnd = make([]byte, 8)

func (e *environment) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", e.serveNext)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", e.serveResponse)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", e.serveError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", e.serveInitError)
	mux.HandleFunc("POST /2020-01-01/extension/register", e.serveRegister)
	mux.HandleFunc("GET /2020-01-01/extension/event/next", e.serveExtensionNext)
	return mux
}

func (e *environment) serveNext(w http.ResponseWriter, r *http.Request) {
	e.poll()
	select {
	case inv := <-e.events:
		if !e.accept(inv) {
			inv.answer(&Result{Err: e.failure(inv.id)})
			return
		}
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(inv.payload)))
		header.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
		header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.handed.Add(e.cfg.Timeout).UnixMilli(), 10))
		header.Set("Lambda-Runtime-Invoked-Function-Arn", e.cfg.FunctionARN)
		header.Set("Lambda-Runtime-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0")
		w.Write(inv.payload)
	case <-e.exited:
	case <-r.Context().Done():
	}
}

func (e *environment) serveResponse(w http.ResponseWriter, r *http.Request) {
	inv, ok := e.claim(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media == streamedType {
		e.receiveStream(w, r, inv)
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		inv.answer(&Result{Err: &FunctionError{
			Type:    "Function.ResponseSizeTooLarge",
			Message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", MaxPayload),
		}})
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "Exceeded maximum allowed payload size")
	case err != nil:
		inv.answer(&Result{Err: e.broken(inv)})
	case r.Trailer.Get(errorTypeTrailer) != "":
		inv.answer(&Result{Err: trailerError(r.Trailer)})
		accepted(w)
	default:
		inv.answer(&Result{Payload: payload})
		accepted(w)
	}
}

// receiveStream delivers a streamed reply as soon as its metadata is whole and
// stays until the last byte, also when nobody reads any more.
func (e *environment) receiveStream(w http.ResponseWriter, r *http.Request, inv *invocation) {
	metadata, rest, err := readPrelude(r.Body)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errPreludeTooLong):
		inv.answer(&Result{Err: e.broken(inv)})
		return
	case err != nil:
		io.Copy(io.Discard, r.Body)
		failure := trailerError(r.Trailer)
		if failure == nil {
			failure = &FunctionError{Type: "Runtime.InvalidPrelude", Message: err.Error()}
		}
		inv.answer(&Result{Err: failure})
		accepted(w)
		return
	}

	reader, writer := io.Pipe()
	inv.deliver(&Result{Stream: &Stream{Metadata: metadata, Body: reader}})
	if len(rest) > 0 {
		writer.Write(rest)
	}
	var end error // nil: the reader gets io.EOF
	if err := copyAll(writer, r.Body); err != nil {
		end = e.broken(inv)
	} else if failure := trailerError(r.Trailer); failure != nil {
		end = failure
	}
	inv.finished()
	writer.CloseWithError(end)
	accepted(w) // nobody hears it if the process is gone
}

var errPreludeTooLong = fmt.Errorf("no eight NUL bytes within the first %d bytes of the reply", maxPrelude)

// readPrelude reads from body until the metadata's end and returns it with what
// already arrived of the rest. io.EOF: the reply ended before.
func readPrelude(body io.Reader) (metadata, rest []byte, err error) {
	var got []byte
	chunk := make([]byte, 4<<10)
	for {
		n, err := body.Read(chunk)
		got = append(got, chunk[:n]...)
		if metadata, rest, ok := bytes.Cut(got, preludeEnd); ok {
			return metadata, rest, nil
		}
		if len(got) > maxPrelude {
			return nil, nil, errPreludeTooLong
		}
		if errors.Is(err, io.EOF) {
			return nil, nil, fmt.Errorf("reply ended before its metadata did: %w", io.EOF)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// copyAll passes each read on at once. A reader who left is no reason to stop:
// only body's own error counts.
func copyAll(to *io.PipeWriter, body io.Reader) error {
	chunk := make([]byte, 32<<10)
	for {
		n, err := body.Read(chunk)
		if n > 0 {
			to.Write(chunk[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// trailerError is how a runtime reports that it failed after it began to answer.
func trailerError(trailer http.Header) *FunctionError {
	if trailer.Get(errorTypeTrailer) == "" {
		return nil
	}
	f := &FunctionError{Type: trailer.Get(errorTypeTrailer)}
	if body, err := base64.StdEncoding.DecodeString(trailer.Get(errorBodyTrailer)); err == nil {
		json.Unmarshal(body, f) // an unreadable body leaves the type
	}
	return f
}

func (e *environment) serveError(w http.ResponseWriter, r *http.Request) {
	inv, ok := e.claim(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	failure, err := readFailure(w, r)
	if err != nil {
		failure = e.broken(inv)
	}
	inv.answer(&Result{Err: failure})
	accepted(w)
}

func (e *environment) serveInitError(w http.ResponseWriter, r *http.Request) {
	failure, err := readFailure(w, r)
	if err != nil {
		return // the process broke off; its exit tells the rest
	}
	e.mu.Lock()
	if e.reason == nil {
		e.reason = failure
	}
	e.mu.Unlock()
	accepted(w)
}

func readFailure(w http.ResponseWriter, r *http.Request) (*FunctionError, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	if err != nil {
		return nil, err
	}
	f := &FunctionError{}
	if json.Unmarshal(body, f) != nil || f.Type == "" {
		f.Type = r.Header.Get("Lambda-Runtime-Function-Error-Type")
	}
	if f.Type == "" {
		f.Type = "Unknown"
	}
	return f, nil
}

func (e *environment) serveRegister(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.extension = true
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Lambda-Extension-Identifier", NewID())
	json.NewEncoder(w).Encode(map[string]string{
		"functionName":    e.cfg.FunctionName,
		"functionVersion": "$LATEST",
		"handler":         "bootstrap",
	})
}

// serveExtensionNext never returns an event: the one extension we know of
// (lambda.WithEnableSIGTERM) registers for none.
func (e *environment) serveExtensionNext(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-e.exited:
	case <-r.Context().Done():
	}
}

func accepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"status":"OK"}`+"\n")
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(FunctionError{Type: kind, Message: message})
}
