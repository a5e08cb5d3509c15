package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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

// Decode reads r's body, a JSON object, into a T: a struct whose fields have json
// tags. It refuses, with an *Error that names the field and what it takes: a
// content type that isn't JSON, more than MaxBody bytes, text that isn't UTF-8
// (RFC 8259 §8.1), a field that T doesn't have under exactly that name or that
// stands twice, a value of another type, and anything after the object.
func Decode[T any](r *http.Request) (T, error) { return decode[T](r, true) }

// DecodeForeign is Decode for the wire formats of others, whose clients send
// fields that we don't act on: those are passed over.
func DecodeForeign[T any](r *http.Request) (T, error) { return decode[T](r, false) }

func decode[T any](r *http.Request, strict bool) (T, error) {
	var v T
	if len(r.Header["Content-Encoding"]) != 0 {
		return v, Fail(UnsupportedMediaType, "The body must come as it is: leave out the header Content-Encoding.")
	}
	if !isJSON(r.Header) {
		return v, &Error{Code: UnsupportedMediaType}
	}
	if r.ContentLength > MaxBody {
		return v, &Error{Code: TooLarge} // before it is sent, where the sender waits for our word
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return v, &Error{Code: TooLarge}
	case err != nil:
		return v, &Error{Code: InvalidRequest, Detail: "The body could not be read to its end.", Err: err}
	case !utf8.Valid(body):
		return v, Fail(InvalidRequest, "The body is not UTF-8.")
	}
	// First as JSON, whole, so that a fault has its place in the body.
	dec := json.NewDecoder(bytes.NewReader(body))
	var object json.RawMessage
	if err := dec.Decode(&object); err != nil {
		return v, notJSON(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return v, Fail(InvalidRequest, "There is more after the JSON object: send one object.")
	}
	return v, decodeObject(object, "", reflect.ValueOf(&v).Elem(), strict)
}

// isJSON reports whether headers announce plain JSON.
func isJSON(h http.Header) bool {
	if len(h["Content-Type"]) != 1 {
		return false
	}
	mediaType, _, err := mime.ParseMediaType(h["Content-Type"][0])
	return err == nil && mediaType == "application/json"
}

// decodeObject reads an object, valid JSON, into the fields of a struct, member
// by member: package json by itself takes names in any case, and twice. The
// object stands in the field of that path; "" is the body.
func decodeObject(object json.RawMessage, path string, v reflect.Value, strict bool) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	switch start, _ := dec.Token(); {
	case start == json.Delim('{'):
	case path == "":
		return Fail(InvalidRequest, "The body must be a JSON object, not %s.", kindOf(start))
	default:
		return Fail(InvalidRequest, "The field %q takes an object, not %s.", strings.TrimSuffix(path, "."), kindOf(start))
	}
	names, fields := fieldsOf(v)
	seen := map[string]bool{}
	for dec.More() {
		key, _ := dec.Token()
		name := key.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return Because(Internal, err)
		}
		field, known := fields[name]
		if !known && !strict {
			continue
		}
		if !known {
			return Fail(InvalidRequest, "The field %s is not known here. Known: %s.", shortened(path+name), strings.Join(names, ", "))
		}
		if seen[name] {
			return Fail(InvalidRequest, "The field %q stands twice.", path+name)
		}
		seen[name] = true
		if err := decodeValue(value, path+name, field, strict); err != nil {
			return err
		}
	}
	return nil
}

// decodeValue reads one member's value. null is as good as no member, unless the
// field's type reads JSON by itself: such a type may tell the two apart.
func decodeValue(value json.RawMessage, path string, field reflect.Value, strict bool) error {
	into := field.Addr().Interface()
	_, itself := into.(json.Unmarshaler)
	switch {
	case !itself && string(value) == "null":
		return nil
	case field.Kind() == reflect.Pointer: // whether the member is there
		field.Set(reflect.New(field.Type().Elem()))
		return decodeValue(value, path, field.Elem(), strict)
	case !itself && field.Kind() == reflect.Struct:
		return decodeObject(value, path+".", field, strict)
	}
	err := json.Unmarshal(value, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		what := takes(wrong.Type)
		if field.Kind() == reflect.Slice && wrong.Type.Kind() != reflect.Slice {
			what = "an array, each item of it " + what
		}
		return Fail(InvalidRequest, "The field %q takes %s, not %s.", path, what, article(wrong.Value))
	}
	if err != nil { // of the field's own type
		return Fail(InvalidRequest, "The field %q: %v.", path, err)
	}
	return nil
}

// notJSON puts the decoder's complaint in a caller's words.
func notJSON(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return Fail(InvalidRequest, "The body is not JSON: the fault is at byte %d.", syntax.Offset)
	case errors.Is(err, io.EOF):
		return Fail(InvalidRequest, "The body is empty: send a JSON object.")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Fail(InvalidRequest, "The body ends in the middle of its JSON object.")
	}
	return Because(Internal, err)
}

// kindOf names what a token begins.
func kindOf(token json.Token) string {
	switch token.(type) {
	case json.Delim:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case nil:
		return "null"
	default:
		return "a number"
	}
}

// shortened quotes a caller's word, for an answer that must not grow with it, nor
// show a key that was put in the wrong place.
func shortened(s string) string {
	if strings.Contains(s, "postern_") {
		return "(a key?)"
	}
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(s, ""))
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
	case reflect.Float64:
		return "a number"
	default:
		return "an object"
	}
}

// article turns the decoder's name of a JSON value ("number", "array",
// "number 1.5") into a noun.
func article(value string) string {
	kind, which, _ := strings.Cut(value, " ")
	if which != "" {
		return strings.Trim(shortened(which), `"`)
	}
	switch kind {
	case "array", "object":
		return "an " + kind
	case "bool":
		return "true or false"
	default:
		return "a " + kind
	}
}

// fieldsOf is the fields of a struct by their names in JSON, and these in order,
// quoted.
func fieldsOf(v reflect.Value) (names []string, byName map[string]reflect.Value) {
	byName = map[string]reflect.Value{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		if f.Anonymous { // the fields in it come by themselves
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, strconv.Quote(name))
		byName[name] = v.FieldByIndex(f.Index)
	}
	return names, byName
}

// seconds rounds up: who waits that long has waited long enough.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
