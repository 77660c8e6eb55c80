%% SPDX-License-Identifier: Apache-2.0

%% @private The workers of one server. They are temporary: the pool restarts them, with backoff,
%% which a supervisor cannot. `simple_one_for_one' ends its children side by side.
-module(hornbeam_workers_sup).

-behaviour(supervisor).

%% API
-export([start_link/2]).
-export([start_worker/2]).

%% supervisor
-export([init/1]).

-spec start_link(atom(), hornbeam_config:config()) -> supervisor:startlink_ret().
start_link(Name, Config) ->
    supervisor:start_link(?MODULE, {Name, Config}).

-spec start_worker(pid(), hornbeam_worker:start_args()) -> {ok, pid()} | {error, term()}.
start_worker(Sup, Args) ->
    case supervisor:start_child(Sup, [Args]) of
        {ok, Pid} when is_pid(Pid) -> {ok, Pid};
        {error, Reason} -> {error, Reason}
    end.

-spec init({atom(), hornbeam_config:config()}) ->
    {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init({Name, Config}) ->
    %% The pool must not ask its own supervisor for its sibling: that one may be waiting for it.
    ok = hornbeam_selection:register_workers_sup(Name),
    Worker = #{
        id => hornbeam_worker,
        start => {hornbeam_worker, start_link, []},
        restart => temporary,
        shutdown => shutdown_ms(Config)
    },
    {ok, {#{strategy => simple_one_for_one}, [Worker]}}.

%% The worker bounds its own end by its options; this is for one that hangs in Erlang.
shutdown_ms(#{shutdown_timeout := ShutdownMs, lifespan_timeout := LifespanMs})
        when is_integer(ShutdownMs), is_integer(LifespanMs) ->
    ShutdownMs + LifespanMs + 5000;
shutdown_ms(_) ->
    infinity.
