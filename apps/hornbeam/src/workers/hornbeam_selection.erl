%% SPDX-License-Identifier: Apache-2.0

%% @private Which worker of a server takes a request: read by connections, without asking the pool.
%%
%% A public table has a row for each server: its ready workers, each with the atomics that tell its
%% load. The server's pool is the only one that writes the row; that the table is public spares it an
%% owner that could die. Rows:
%%
%% <ul>
%% <li>`{Name, Pool, [#worker{}], MaxConcurrency, waiting(), WorkerClass}'</li>
%% <li>`{{workers_sup, Name}, Pid}': the supervisor of the workers, for the pool to find.</li>
%% </ul>
%%
%% Every request reads its server's row, which a table copies under a lock, and a persistent term does
%% not. So there is a copy of the row in one, which {@link mirror/1} keeps: the table is what holds, and
%% where there is no copy it is asked. To write one costs a look at every process of the node, which is
%% worth it as long as workers seldom come and go.
-module(hornbeam_selection).

%% API
-export([create_table/0]).
-export([register_workers_sup/1]).
-export([workers_sup/1]).
-export([all_workers_sups/0]).
-export([publish/5]).
-export([withdraw/1]).
-export([forget/1]).
-export([pool_pid/1]).
-export([worker_class/1]).
-export([gathers_bodies/1]).
-export([checkout/3]).
-export([has_doubtful/1]).
-export([has_other/3]).
-export([new_waiting/1]).
-export([admit/2]).
-export([no_longer_waiting/2]).
-export([is_somebody_waiting/1]).
-export([stop_by/3]).
-export([stop_deadline_ms/1]).
-export([is_stopping/1]).

-export_type([worker/0, turn/0, which/0, waiting/0, worker_class/0]).

-record(worker, {
    pid :: pid(),
    writer :: pid(),
    routes :: hornbeam_routes:routes(),
    load :: hornbeam_load:load()
}).

-type worker() :: {Pid :: pid(), Writer :: pid(), hornbeam_routes:routes(), hornbeam_load:load()}.
%% A place that was reserved: it is given back by the worker process when the application's call
%% has returned, or by whoever could not use it, with `hornbeam_pool:release/2'.

-opaque waiting() :: atomics:atomics_ref().
%% How many requests are in the queue or on their way into it, and how many may be: read without
%% asking the pool. And when the pool is to have stopped, once it is stopping.

-type turn() :: new | queued.
%% Whether a request has just come, or was told by the pool that its turn has come.

-type which() :: any | proven.
%% A request that one worker's death has cost may not be lost with another: it goes to one that has
%% shown that it lives since then.

-type worker_class() :: asgi | wsgi | undefined.
%% The interface of the application, which workers tell when they are ready.

-define(TABLE, ?MODULE).

%% How often the worker with the fewest requests is looked for anew, as others were quicker.
-define(TRIES, 4).
%% Fields of waiting().
-define(WAITING, 1).
-define(MAX_WAITING, 2).
-define(STOP_BY_MS, 3).

%%% The row

%% @doc Make the table that all servers share. Called once, before the supervision tree starts.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    %% Of pools that were killed with the application.
    lists:foreach(fun persistent_term:erase/1, [Key || {Key = {?MODULE, _}, _} <- persistent_term:get()]).

%% @doc Called by the supervisor of the server's workers, which starts before the pool.
-spec register_workers_sup(atom()) -> ok.
register_workers_sup(Name) ->
    true = ets:insert(?TABLE, {{workers_sup, Name}, self()}),
    ok.

-spec workers_sup(atom()) -> pid().
workers_sup(Name) ->
    ets:lookup_element(?TABLE, {workers_sup, Name}, 2).

%% @doc Called by the pool: from now on requests go to these workers.
-spec publish(atom(), [worker()], pos_integer(), waiting(), worker_class()) -> ok.
publish(Name, Workers, MaxConcurrency, Waiting, WorkerClass) ->
    Rows = [#worker{pid = Pid, writer = Writer, routes = Routes, load = Load}
            || {Pid, Writer, Routes, Load} <- Workers],
    true = ets:insert(?TABLE, {Name, self(), Rows, MaxConcurrency, Waiting, WorkerClass}),
    mirror(Name).

%% @doc Called by the pool at its end. Takes only its own row: if the server's supervisor was
%% killed, a successor may be there already.
-spec withdraw(atom()) -> ok.
withdraw(Name) ->
    true = ets:match_delete(?TABLE, {Name, self(), '_', '_', '_', '_'}),
    mirror(Name).

%% @doc The server was stopped: nothing of it stays, also not of a pool that was killed.
-spec forget(atom()) -> ok.
forget(Name) ->
    true = ets:delete(?TABLE, Name),
    true = ets:delete(?TABLE, {workers_sup, Name}),
    mirror(Name).

%% Whoever has changed the table does this. A pool and its successor may do so at the same time, and
%% then the one that is slower must not leave an older copy: so it looks whether the row is still so.
mirror(Name) ->
    Row = ets:lookup(?TABLE, Name),
    _ = case Row of
        [] -> persistent_term:erase({?MODULE, Name});
        _ -> persistent_term:put({?MODULE, Name}, Row)
    end,
    case ets:lookup(?TABLE, Name) of
        Row -> ok;
        _ -> mirror(Name)
    end.

row(Name) ->
    case persistent_term:get({?MODULE, Name}, []) of
        [] -> ets:lookup(?TABLE, Name);
        Row -> Row
    end.

%% @doc The supervisors of the workers of all servers.
-spec all_workers_sups() -> [pid()].
all_workers_sups() ->
    [Sup || [Sup] <- ets:match(?TABLE, {{workers_sup, '_'}, '$1'})].

-spec pool_pid(atom()) -> pid() | undefined.
pool_pid(Name) ->
    case row(Name) of
        [{_, Pid, _, _, _, _}] -> Pid;
        [] -> undefined
    end.

%% @doc The interface of the server's application, once a worker has told it.
-spec worker_class(atom()) -> worker_class().
worker_class(Name) ->
    case row(Name) of
        [{_, _, _, _, _, WorkerClass}] -> WorkerClass;
        [] -> undefined
    end.

%% @doc Whether small bodies are to be complete before a request is dispatched: a WSGI application
%% reads with a thread of its own, which should not wait for a slow client.
-spec gathers_bodies(atom()) -> boolean().
gathers_bodies(Name) ->
    worker_class(Name) =:= wsgi.

%%% Selection

%% @doc Reserve a place in the ready worker with the fewest requests in flight.
%%
%% `full': no place, or others were there first. `down': there is no such server (any more).
-spec checkout(atom(), turn(), which()) -> {ok, worker()} | full | down.
checkout(Name, Turn, Which) ->
    case row(Name) of
        [{_, _Pid, Workers, Max, Waiting, _}] ->
            case Turn =:= queued orelse atomics:get(Waiting, ?WAITING) =< 0 of
                true -> select(Name, Workers, Max, Which, ?TRIES);
                false -> full
            end;
        [] ->
            down
    end.

%% @doc Whether a worker takes requests that has not shown yet that it lives.
-spec has_doubtful(atom()) -> boolean().
has_doubtful(Name) ->
    case row(Name) of
        [{_, _, Workers, _, _, _}] ->
            lists:any(fun(#worker{load = Load}) ->
                hornbeam_load:is_open(Load) andalso not hornbeam_load:is_proven(Load)
            end, Workers);
        [] ->
            false
    end.

select(Name, Workers, Max, Which, Tries) ->
    case choose(candidates(Which, Workers), Max) of
        undefined ->
            select_again(Name, Workers, Which);
        {Worker, Seen} ->
            case reserve(Worker, Max, Seen, Tries) of
                true -> reserved(Worker, Name, Workers, Max, Which);
                %% It may not be the one with the fewest any more.
                overtaken -> select(Name, Workers, Max, Which, Tries - 1);
                %% Others took the last places meanwhile.
                false -> full
            end
    end.

reserve(#worker{load = Load}, Max, Seen, Tries) when Seen =:= any; Tries =:= 0 ->
    hornbeam_load:reserve(Load, Max);
reserve(#worker{load = Load}, Max, Seen, _) ->
    hornbeam_load:reserve(Load, Max, Seen).

candidates(any, Workers) ->
    Workers;
candidates(proven, Workers) ->
    [Worker || Worker = #worker{load = Load} <- Workers, hornbeam_load:is_proven(Load)].

%% None is open: either that is how it is, or all of them were replaced since the row was read, and
%% then their successors are in it.
select_again(Name, Workers, Which) ->
    case ets:lookup(?TABLE, Name) of
        [{_, _, Workers, _, _, _}] -> full;
        [{_, _, Others, Max, _, _}] -> select(Name, Others, Max, Which, ?TRIES);
        [] -> down
    end.

%% A worker that is being replaced is closed, then its places are counted, and it is told to end when
%% all of them have sent their request: a place that was taken in between must not be used.
reserved(#worker{pid = Pid, writer = Writer, routes = Routes, load = Load}, Name, Workers, Max,
         Which) ->
    case hornbeam_load:is_open(Load) of
        true ->
            {ok, {Pid, Writer, Routes, Load}};
        false ->
            hornbeam_load:release(Load),
            select(Name, Workers, Max, Which, ?TRIES)
    end.

%% The worker, and how many it had in flight when it was chosen for that. An only worker is not
%% compared to others, nor probed: what it has could go nowhere else.
choose([Worker = #worker{load = Load}], _) ->
    case hornbeam_load:is_open(Load) of
        true -> {Worker, any};
        false -> undefined
    end;
choose(Workers, Max) ->
    least_loaded(Workers, Max, undefined, undefined).

%% Among equals the one that has had the fewest requests, so that light traffic spreads too.
least_loaded([Worker = #worker{load = Load} | Rest], Max, Best, Least) ->
    case hornbeam_load:is_open(Load) of
        true ->
            Rank = hornbeam_load:rank(Load, Max),
            _ = element(1, Rank) =/= free andalso probe(Worker),
            case Best =:= undefined orelse Rank < Least of
                true -> least_loaded(Rest, Max, Worker, Rank);
                false -> least_loaded(Rest, Max, Best, Least)
            end;
        false ->
            least_loaded(Rest, Max, Best, Least)
    end;
least_loaded([], _, undefined, _) ->
    undefined;
least_loaded([], _, Best, {_, InFlight, _}) ->
    {Best, InFlight}.

%% One at a time, whoever asks. Also one that has no place: what it has may be better off elsewhere.
probe(#worker{pid = Pid, load = Load}) ->
    hornbeam_load:is_quiet(Load) andalso hornbeam_load:want_probe(Load)
        andalso hornbeam_worker:probe(Pid).

%% @doc Whether there is another worker that takes requests, or one that answers, as far as is known.
-spec has_other(atom(), pid(), open | answering) -> boolean().
has_other(Name, Pid, How) ->
    case row(Name) of
        [{_, _, Workers, _, _, _}] ->
            lists:any(fun(#worker{pid = Other, load = Load}) ->
                Other =/= Pid andalso hornbeam_load:is_open(Load)
                    andalso (How =:= open orelse not hornbeam_load:is_suspect(Load))
            end, Workers);
        [] ->
            false
    end.

%%% Those who wait

-spec new_waiting(MaxQueue :: non_neg_integer()) -> waiting().
new_waiting(MaxQueue) ->
    Waiting = atomics:new(3, [{signed, true}]),
    ok = atomics:put(Waiting, ?MAX_WAITING, MaxQueue),
    Waiting.

%% @doc Count one more who waits, where there is room: the pool to which it has to be told. One that
%% found no place in its turn (`queued') comes back whatever the length of the queue.
-spec admit(atom(), turn()) -> {ok, Pool :: pid()} | full | down.
admit(Name, Turn) ->
    case row(Name) of
        [{_, Pid, _, _, Waiting, _}] ->
            case atomics:add_get(Waiting, ?WAITING, 1) > atomics:get(Waiting, ?MAX_WAITING) of
                true when Turn =:= new ->
                    atomics:sub(Waiting, ?WAITING, 1),
                    full;
                _ ->
                    {ok, Pid}
            end;
        [] ->
            down
    end.

-spec no_longer_waiting(waiting(), non_neg_integer()) -> ok.
no_longer_waiting(Waiting, Count) ->
    atomics:sub(Waiting, ?WAITING, Count).

-spec is_somebody_waiting(waiting()) -> boolean().
is_somebody_waiting(Waiting) ->
    atomics:get(Waiting, ?WAITING) > 0.

%%% The end

%% @doc Say by when (monotonic milliseconds) running tasks have to end when the pool is stopped: the
%% drain before that has had its share of `shutdown_timeout'. WebSockets are told: they would not
%% end by themselves.
-spec stop_by(atom(), pid() | undefined, DeadlineMs :: integer()) -> ok.
stop_by(Name, Pool, DeadlineMs) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Pool, Workers, _, Waiting, _}] ->
            %% In this order: one that is accepted now finds the mark, or is told.
            ok = atomics:put(Waiting, ?STOP_BY_MS, DeadlineMs),
            [hornbeam_routes:tell_going_away(Routes) || #worker{routes = Routes} <- Workers],
            %% It knows those as well that were replaced and have not left yet.
            gen_server:cast(Pool, going_away);
        %% A successor's, or gone.
        _ ->
            ok
    end.

-spec stop_deadline_ms(waiting()) -> integer() | none.
stop_deadline_ms(Waiting) ->
    case atomics:get(Waiting, ?STOP_BY_MS) of
        0 -> none;
        DeadlineMs -> DeadlineMs
    end.

%% @doc Whether the server is about to stop.
-spec is_stopping(atom()) -> boolean().
is_stopping(Name) ->
    case row(Name) of
        [{_, _, _, _, Waiting, _}] -> stop_deadline_ms(Waiting) =/= none;
        [] -> true
    end.
