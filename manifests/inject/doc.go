// Package inject puts Sidegate beside the containers of Kubernetes workloads
// and takes it away again, in YAML text whose comments, order and formatting
// stay.
//
//	result, err := inject.Inject("app.yaml", text, inject.Options{Image: image, TLSSecret: "web-tls", UsersSecret: "users"})
//
// Known are Deployments, StatefulSets, DaemonSets, Jobs, CronJobs and Pods,
// several documents and Lists of them, and Services in the same text; other
// documents pass. What can't be done well is refused with the reason, all of
// it at once, and then nothing is changed.
//
// [Inject] removes first what an earlier injection added, so that doing it
// twice gives the same bytes and doing it with other options replaces the
// former. [Remove] is the inverse: for what Inject made it gives the bytes
// back that Inject was given, and for what a cluster or a person reformatted
// since it gives the same objects back. Inject checks this each time.
//
// # Design
//
// The text is edited where the parsed tree says, and not printed from the
// tree: the printer of every YAML library loses blank lines, indentation and
// quotes. What can't be derived on the way back (the application's probes, what
// was empty or in flow style) is kept as text in the status annotation of the
// pod template.
//
// An annotation on the pod template wins over a flag: it speaks of that one
// workload, and the flag of all.
package inject
