package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// MaxBody is the largest body that is read, in bytes.
const MaxBody = 1 << 20

// WriteJSON sends v as the body of a success.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	return writeJSON(w, status, "application/json", v)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) error {
	body, err := Encode(v)
	if err != nil {
		return err
	}
	return writeBody(w, status, contentType, body)
}

// WriteEncoded sends a body that Encode made before.
func WriteEncoded(w http.ResponseWriter, body []byte) error {
	return writeBody(w, http.StatusOK, "application/json", body)
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) error {
	w.Header()["Content-Type"] = []string{contentType}
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}

// Encode is v as WriteJSON sends it: JSON as people expect to read it, without
// the escapes of <, > and &, and with a newline at its end.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode reads r's body, a JSON object, into a T: a struct. It refuses, with an
// *Error that names the field and what it takes: a content type that isn't
// JSON, more than MaxBody bytes, a field that T doesn't have, a value of
// another type, and anything after the object.
func Decode[T any](r *http.Request) (T, error) {
	var v T
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return v, &Error{Code: UnsupportedMediaType}
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	object := &v
	err = dec.Decode(&object)
	if err == nil && object == nil {
		err = errNull // else it would be an object without fields
	}
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errTrailing
			if tooLarge(more) {
				err = more
			}
		}
	}
	if err != nil {
		return v, decodeError(err, v)
	}
	return v, nil
}

var (
	errNull     = errors.New("null in place of the JSON object")
	errTrailing = errors.New("there is more after the JSON object")
)

func tooLarge(err error) bool {
	var e *http.MaxBytesError
	return errors.As(err, &e)
}

// decodeError puts the decoder's complaint in a caller's words.
func decodeError(err error, into any) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case tooLarge(err):
		return &Error{Code: TooLarge}
	case errors.As(err, &wrong) && wrong.Field == "":
		return Fail(InvalidRequest, "The body must be a JSON object, not %s.", article(wrong.Value))
	case errors.As(err, &wrong):
		return Fail(InvalidRequest, "The field %q takes %s, not %s.", wrong.Field, takes(wrong.Type), article(wrong.Value))
	case errors.As(err, &syntax):
		return Fail(InvalidRequest, "The body is not JSON: the fault is at byte %d.", syntax.Offset)
	case errors.Is(err, io.EOF):
		return Fail(InvalidRequest, "The body is empty: send a JSON object.")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Fail(InvalidRequest, "The body ends in the middle of its JSON object.")
	case errors.Is(err, errNull):
		return Fail(InvalidRequest, "The body must be a JSON object, not null.")
	case errors.Is(err, errTrailing):
		return Fail(InvalidRequest, "There is more after the JSON object: send one object.")
	}
	if field, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		if len(field) > 80 {
			field = "with that long name"
		}
		return Fail(InvalidRequest, "The field %s is not known here. Known: %s.", field, strings.Join(fieldsOf(into), ", "))
	}
	// The connection broke, or took too long: nobody reads the answer.
	return &Error{Code: InvalidRequest, Detail: "The body could not be read to its end.", Err: err}
}

func takes(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	default:
		return "an object"
	}
}

// article turns the decoder's name of a JSON value ("number", "array",
// "number 1.5") into a noun.
func article(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	switch kind {
	case "array", "object":
		return "an " + kind
	case "bool":
		return "true or false"
	default:
		return "a " + kind
	}
}

func fieldsOf(v any) []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, fmt.Sprintf("%q", name))
	}
	return names
}

// seconds rounds up: who waits that long has waited long enough.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
