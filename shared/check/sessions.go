package check

import "strings"

// conversations is what the root token gets for ids that are none, and for
// conversations that there are not.
func conversations() []Case {
	var cases []Case
	for name, id := range map[string]string{
		"no characters": ``, "a character too many": strings.Repeat("x", 129), "a blank": `a b`, "a slash": `a/b`, "the table's own sign": `a#b`, "a dot alone": `.`,
		"two dots alone": `..`, "a line break": `a\n`, "a NUL": `\u0000`, "another alphabet": `ä`, "a character that folds to ASCII": `\u212a`, "a token": Token + "/",
	} {
		for _, more := range []string{``, `,"stream":true`} {
			cases = append(cases, Case{Name: "a session_id of " + name + more, Method: "POST", Path: "/chat", Header: posted(), Body: `{"message":"hello","session_id":"` + id + `"` + more + `}`,
				Want: invalid(`"session_id" takes 1 to 128 characters`)})
		}
	}
	for _, value := range []string{`7`, `true`, `["a"]`, `{"id":"a"}`} {
		cases = append(cases, Case{Name: "a session_id that is no string: " + value, Method: "POST", Path: "/chat", Header: posted(), Body: `{"message":"hello","session_id":` + value + `}`,
			Want: invalid(`"session_id" takes a string`)})
	}
	for name, id := range map[string]string{
		"unknown": "none", "of another shape": "a%20b", "of another alphabet": "%C3%A4", "with a slash": "a%2Fb", "of dots": "...", "too long": strings.Repeat("x", 129), "a key's": nobody,
	} {
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			cases = append(cases, Case{Name: "a conversation that there is not: an id that is " + name + ": " + method, Method: method, Path: "/sessions/" + id, Header: bearer(),
				Want: Want{Status: 404, Error: "Not found", Detail: "no such conversation", Header: map[string]string{"RateLimit": Any}}})
		}
	}
	for _, method := range []string{"GET", "DELETE"} {
		cases = append(cases, Case{Name: "P5: conversations are behind the door: " + method, Method: method, Path: "/sessions/none", Want: refused()})
	}
	return append(cases,
		Case{Name: "a chat without a conversation has no session_id", Method: "POST", Path: "/chat", Header: posted(), Body: `{"message":"hello","session_id":null}`,
			Want: Want{Status: 200, JSON: map[string]any{"status": "success", "session_id": Absent}}},
		Case{Name: "a wrong method of a conversation", Method: "POST", Path: "/sessions/none", Header: posted(), Body: `{}`,
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": "GET, HEAD, DELETE, OPTIONS", "RateLimit": Any}}},
		Case{Name: "there is no list of conversations", Path: "/sessions", Header: bearer(), Want: Want{Status: 404, Error: "Not found"}},
	)
}
