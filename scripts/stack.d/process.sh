# Processes of a stack: launched apart from the caller, known by pid and start time, killed with all their children.
# shellcheck shell=bash

# One command at a time works on a stack.
take_turn() {
    exec 9>"$DIR/.lock"
    flock -w 180 9 || fail "another command has worked on $DIR for more than 180 s"
}

# Prints when the process started, in clock ticks since boot. With the boot's id this tells a process from a later one with its pid.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The program's name, in parentheses, may itself hold spaces and parentheses; state and parent follow it.
    read -ra stat <<<"${stat##*) }"
    # A zombie is dead once its last thread is: until then its files and sockets are open. Who reaps it, and when, is not ours.
    [[ ${stat[0]} != Z ]] || ((stat[17] > 1)) || return 1
    echo "${stat[19]}"
}

# launch SERVER COMMAND...: runs it in a session of its own, with nothing of the caller's but a small environment, and remembers it.
launch() {
    local server=$1 pid
    shift
    (
        cd "$DIR" || exit
        # An inherited descriptor would keep the caller's pipe, or this stack's lock, open for as long as the server lives.
        local fd
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            ((fd <= 2)) || eval "exec $fd>&-"
        done
        exec setsid env -i PATH="$PATH" HOME="$DIR" LC_ALL=C.UTF-8 TZ=UTC "$@" </dev/null >>"$DIR/log/$server.log" 2>&1
    ) &
    pid=$!
    echo "$pid $(start_time $pid) $(</proc/sys/kernel/random/boot_id)" >"$DIR/run/$server.pid"
}

# Prints the pid that was launched for the server, or "-".
pid_of() {
    local pid=-
    [[ -r $DIR/run/$1.pid ]] && read -r pid _ <"$DIR/run/$1.pid"
    echo "$pid"
}

# Tells whether the launched process still lives: the same pid, started at the same moment of the same boot.
is_running() {
    local pid started boot
    [[ -r $DIR/run/$1.pid ]] || return 1
    read -r pid started boot <"$DIR/run/$1.pid" || return 1
    [[ $boot == "$(</proc/sys/kernel/random/boot_id)" && $(start_time "$pid") == "$started" ]]
}

descendants() {
    local child children
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || return 0
    for child in $children; do
        echo "$child"
        descendants "$child"
    done
}

# Kills the server as a power cut would: no handler runs, no process of it is left.
kill_whole() {
    local server=$1 pid children
    is_running "$server" || return 0
    pid=$(pid_of "$server")
    # Stopped first, so that it cannot start another child while they are listed.
    kill -STOP "$pid"
    mapfile -t children < <(descendants "$pid")
    kill -KILL "$pid" "${children[@]}" 2>/dev/null || true
    for pid in "$pid" "${children[@]}"; do
        while start_time "$pid" >/dev/null; do sleep 0.01; done
    done
}
