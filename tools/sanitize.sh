#!/bin/sh
# Runs a command of a sanitizer build: tools/sanitize.sh address|thread COMMAND...
#
# The interpreter itself is not instrumented, so the runtime library is loaded in front of it. Leaks are CPython's
# own: it frees little at its end. The first bad access or undefined behaviour ends the process; data races are
# reported as they come and make its exit code 66. Reports go to file descriptor 2: pytest needs --capture=sys.
set -eu
kind=$1
shift
case $kind in
address)
	lib=libasan
	export PYTHONMALLOC=malloc
	;;
thread) lib=libtsan ;;
*)
	echo "usage: $0 address|thread COMMAND..." >&2
	exit 2
	;;
esac

export ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="history_size=7:${TSAN_OPTIONS:-}"
export OPENBLAS_NUM_THREADS=1
exec env LD_PRELOAD="$("${CC:-cc}" -print-file-name=$lib.so)" "$@"
