package check

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// nobodysJob has the form of a job's id.
const nobodysJob = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// aboutJob is a request for each route about one job.
func aboutJob(id string) []Case {
	return []Case{
		{Method: "GET", Path: "/jobs/" + id},
		{Method: "HEAD", Path: "/jobs/" + id},
		{Method: "POST", Path: "/jobs/" + id + "/cancel"},
		{Method: "DELETE", Path: "/jobs/" + id},
		{Method: "GET", Path: "/api/jobs/" + id},
		{Method: "DELETE", Path: "/api/jobs/" + id},
	}
}

// aboutJobs is a request for each route about jobs.
func aboutJobs() []Case {
	return append(aboutJob(nobodysJob),
		Case{Method: "GET", Path: "/jobs"},
		Case{Method: "GET", Path: "/api/jobs"},
		Case{Method: "POST", Path: "/api/ask", Body: `{"workspaceId":"w","question":"q"}`},
	)
}

// jobs is what the root token gets for jobs that there are not.
func jobs() []Case {
	var cases []Case
	for _, c := range aboutJobs() {
		c.Name, c.Header, c.Want = "P5: jobs are behind the door: "+c.Method+" "+c.Path, header("Content-Type", "application/json"), refused()
		cases = append(cases, c)
	}
	ids := map[string]string{
		"nobody's": nobodysJob, "in small letters": strings.ToLower(nobodysJob), "too short": nobodysJob[1:], "too long": nobodysJob + "A", "of other digits": "0189" + nobodysJob[4:],
		"with an escaped slash": nobodysJob[:12] + "%2F" + nobodysJob[13:], "a key's": nobody, "OmniDev's own": "2025-11-30T03-12-22Z-a1b2c3d4",
	}
	for _, name := range slices.Sorted(maps.Keys(ids)) {
		cases = append(cases, missing("a job that there is not, of an id that is "+name, ids[name])...)
	}
	for _, row := range [][2]string{
		{"limit=0", `"limit"`}, {"limit=101", `"limit"`}, {"limit=ten", `"limit"`}, {"limit=5&limit=6", `"limit"`}, {"limit=", `"limit"`},
		{"after=" + nobodysJob, `"after"`}, {"status=queued", "status"},
	} {
		cases = append(cases, Case{Name: "a faulty query is told: " + row[0], Path: "/jobs?" + row[0], Header: bearer(), Want: invalid(row[1])})
	}
	for _, row := range []struct{ method, path, allow string }{
		{"POST", "/jobs", "GET, HEAD, OPTIONS"},
		{"PUT", "/jobs/" + nobodysJob, "GET, HEAD, DELETE, OPTIONS"},
		{"GET", "/jobs/" + nobodysJob + "/cancel", "POST, OPTIONS"},
		{"GET", "/api/ask", "POST, OPTIONS"},
		{"DELETE", "/api/jobs", "GET, HEAD, OPTIONS"},
		{"POST", "/api/jobs/" + nobodysJob, "GET, HEAD, DELETE, OPTIONS"},
	} {
		cases = append(cases, Case{Name: "a wrong method about jobs: " + row.method + " " + row.path, Method: row.method, Path: row.path, Header: posted(),
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": row.allow, "RateLimit": Any}}})
	}
	chat := func(name, prefer, body string, want Want) Case {
		h := posted()
		if prefer != "" {
			h.Set("Prefer", prefer)
		}
		return Case{Name: name, Method: "POST", Path: "/chat", Header: h, Body: body, Want: want}
	}
	waited := Want{Status: 200, Header: map[string]string{"Preference-Applied": Absent, "Location": Absent}, JSON: map[string]any{"status": "success"}}
	return append(cases,
		Case{Name: "the list of jobs", Path: "/jobs?limit=100", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{"jobs": Any, "next": Any}, Header: map[string]string{"RateLimit": Any}}},
		chat("another preference is passed over", `wait=10, respond-asynchronous, foo="a,respond-async,b"`, `{"message":"hello"}`, waited),
		chat("a callback that is null is none", "", `{"message":"hello","callback":null}`, waited),
		chat("a callback is for who doesn't wait", "", `{"message":"hello","callback":{"url":"https://hooks.example.com/"}}`, invalid(`"Prefer: respond-async"`)),
		chat("a field of a callback that there is not", "", `{"message":"hello","callback":{"x":1}}`, invalid(`"callback.x" is not known here`)),
		chat("a callback of another type", "", `{"message":"hello","callback":"https://hooks.example.com/"}`, invalid(`"callback" takes an object`)),
	)
}

// missing is what comes back about a job that there is not, on every route.
func missing(name, id string) []Case {
	cases := aboutJob(id)
	for i := range cases {
		c := &cases[i]
		c.Name, c.Header, c.Want = name+": "+c.Method+" "+c.Path, posted(), Want{Status: 404, Error: "Not found", Detail: "no such job", Header: map[string]string{"RateLimit": Any}}
	}
	return cases
}

// waiting is what the holder of a key gets that may not chat.
func waiting() []Case {
	cases := aboutJobs()
	for i := range cases {
		c := &cases[i]
		c.Name, c.Header, c.Want = "a scope that a key lacks: "+c.Method+" "+c.Path, authorized(Issued), Want{Status: 403, Error: "Insufficient scope", Detail: `"chat"`}
	}
	return cases
}

// aJob is a job that has succeeded, in every form in which its owner sees it.
func aJob() []Case {
	return []Case{
		{Name: "a job and its result", Path: "/jobs/" + Job, Header: bearer(), Want: Want{Status: 200, Header: map[string]string{"RateLimit": Any}, JSON: map[string]any{
			"id": Any, "status": "succeeded", "created_at": Any, "started_at": Any, "finished_at": Any, "error": nil, "type": Absent, "label": Absent,
			"result.response": Any, "result.status": "success", "result.agent": Any, "result.model": Any, "result.usage.input_tokens": Any, "result.usage.output_tokens": Any,
			"result.request_id": Any, "result.session_id": Absent,
			"owner": Absent, "caller": Absent, "request": Absent, "callback": Absent, "lease": Absent, "holder": Absent}}},
		{Name: "HEAD of a job", Method: "HEAD", Path: "/jobs/" + Job, Header: bearer(), Want: Want{Status: 200}},
		{Name: "a job in the list, without its result", Path: "/jobs?limit=1", Header: bearer(), Want: Want{Status: 200,
			JSON: map[string]any{"jobs.0.id": Any, "jobs.0.status": "succeeded", "jobs.0.result": nil, "jobs.0.error": nil, "jobs.1": Absent, "next": Any}}},
		{Name: "OmniDev: a job that has ended", Path: "/api/jobs/" + Job, Header: header("X-API-Key", Token), Want: Want{Status: 200,
			JSON: map[string]any{"id": Any, "type": "chat", "status": "completed", "createdAt": Any, "startedAt": Any, "completedAt": Any,
				"result.output": Any, "result.executionTimeMs": Any, "error": Absent}}},
		{Name: "OmniDev: it is in the list", Path: "/api/jobs?status=completed&limit=1", Header: header("X-API-Key", Token), Want: Want{Status: 200,
			JSON: map[string]any{"jobs.0.status": "completed", "jobs.0.result": Absent, "jobs.1": Absent, "meta.returned": 1, "meta.statusFilter": "[completed]", "meta.limit": 1}}},
		{Name: "what has ended can't be cancelled", Method: "POST", Path: "/jobs/" + Job + "/cancel", Header: bearer(), Want: Want{Status: 409, Error: "Conflict", Detail: "succeeded"}},
	}
}

// aQuestion is OmniDev's documented requests. Nobody waits for their answers.
func aQuestion() []Case {
	queued := Want{Status: 200, Header: map[string]string{"Content-Type": "application/json"}, JSON: map[string]any{
		"success": true, "queued": true, "jobId": Any, "message": "Job queued - poll /api/jobs/:jobId for results", "workspace.id": "workspace-123"}}
	ask := func(name string, h http.Header, more string, want Want) Case {
		return Case{Name: "OmniDev: " + name, Method: "POST", Path: "/api/ask", Header: h, Body: `{"workspaceId":"workspace-123","question":"How does this code work?"` + more + `}`, Want: want}
	}
	return []Case{
		ask("a question by x-api-key", header("X-API-Key", Token, "Content-Type", "application/json"), ``, queued),
		ask("a question by a bearer token", posted(), ``, queued),
		ask("a branch is passed over", posted(), `,"sourceBranch":"main"`, queued),
		ask("a question in its context", posted(), `,"context":"It is written in Go."`, queued),
		ask("an empty callback", posted(), `,"callback":{}`, invalid(`"callback.url" is missing`)),
		ask("a callback without TLS", posted(), `,"callback":{"url":"http://n8n.example.com/"}`, invalid(`"callback.url"`)),
	}
}

// submissions are chats that nobody waits for.
func submissions() []Case {
	chat := func(name, prefer, body string, want Want, more ...string) Case {
		return Case{Name: name, Method: "POST", Path: "/chat", Header: posted(append(more, "Prefer", prefer)...), Body: body, Want: want}
	}
	accepted := Want{Status: 202, Header: map[string]string{"Content-Type": "application/json", "Location": Any, "Preference-Applied": "respond-async", "RateLimit": Any},
		JSON: map[string]any{"id": Any, "status": "queued", "created_at": Any, "started_at": nil, "finished_at": nil, "result": nil, "error": nil, "callback": Absent}}
	const later = "respond-async"
	told := func(status int, title, detail string) Want {
		return Want{Status: status, Error: title, Detail: detail, Header: map[string]string{"Location": Absent, "Preference-Applied": Absent}}
	}
	cases := []Case{
		chat("a chat that nobody waits for is a job", later, `{"message":"hello"}`, accepted),
		chat("the preference may stand in a list, in any case", `wait=10, Respond-Async; wait=10`, `{"message":"hello","agent":"reviewer","stream":false}`, accepted),
		chat("a stream is for who waits", later, `{"message":"hello","stream":true}`, told(400, "Invalid request", `"stream"`)),
		chat("a stream by Accept is for who waits", later, `{"message":"hello"}`, told(400, "Invalid request", `text/event-stream`), "Accept", "text/event-stream"),
		chat("a job without a message", later, `{"message":" "}`, told(400, "Message required", "")),
		chat("a job above 256 KiB", later, `{"message":"`+strings.Repeat("x", 256<<10+1)+`"}`, told(413, "Request too large", "")),
		chat("a job of an agent that there is not", later, `{"message":"hello","agent":"nobody"}`, told(404, "Not found", "GET /agents")),
		chat("a job in a conversation of an impossible id", later, `{"message":"hello","session_id":"a/b"}`, told(400, "Invalid request", `"session_id"`)),
	}
	for _, row := range [][2]string{
		{"no url", ``},
		{"no TLS", `http://hooks.example.com/`},
		{"another scheme", `file:///etc/passwd`},
		{"no host", `https:///x`},
		{"a name without a dot", `https://localhost/`},
		{"loopback", `https://127.0.0.1/`},
		{"loopback in IPv6", `https://[::1]/`},
		{"a private address", `https://10.0.0.1/`},
		{"an address in IPv6's clothes", `https://[::ffff:10.0.0.1]/`},
		{"AWS' metadata", `https://169.254.169.254/latest/meta-data/`},
		{"Google's metadata", `https://metadata.google.internal/`},
		{"a short address", `https://127.1/`},
		{"a hexadecimal address", `https://0x7f000001/`},
		{"a user in it", `https://user@hooks.example.com/`},
		{"a fragment", `https://hooks.example.com/#x`},
		{"a blank", `https://hooks.example.com/ x`},
	} {
		cases = append(cases, chat("I13: a callback of "+row[0], later, `{"message":"hello","callback":{"url":"`+row[1]+`"}}`, told(400, "Invalid request", `"callback.url"`)))
	}
	return cases
}

// noJob deletes the job, and asks for it again.
func noJob() []Case {
	return append([]Case{{Name: "a job is deleted", Method: "DELETE", Path: "/jobs/" + Job, Header: bearer(), Want: Want{Status: 204}}},
		missing("a job that was deleted", Job)...)
}
