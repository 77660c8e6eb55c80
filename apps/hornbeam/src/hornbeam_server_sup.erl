%% SPDX-License-Identifier: Apache-2.0

%% @private One server: workers, pool, listener.
%%
%% `rest_for_one': a listener that has crashed comes back alone, while the workers keep what their
%% lifespans have made. The pool owns the tables of its workers and does not adopt workers that it did
%% not start: with a new pool there are new workers, and those of the former leave by themselves (see
%% {@link hornbeam_worker}); connections hold places in the pool and end with it. The listener is last,
%% so it is the first to end: it drains the connections while pool and workers still serve them. Behind
%% it stands only what watches the files, where that was asked for.
-module(hornbeam_server_sup).

-behaviour(supervisor).

%% API
-export([start_link/4]).
-export([child/2]).

%% supervisor
-export([init/1]).

-spec start_link(atom(), hornbeam_config:config(), file:filename(), hornbeam_listener:opened()) ->
    supervisor:startlink_ret().
start_link(Name, Config, Python, Opened) ->
    supervisor:start_link(?MODULE, {Name, Config, Python, Opened}).

%% @doc The process of a child; exits like a call to it where it does not run at this moment.
-spec child(pid(), module()) -> pid().
child(Sup, Id) ->
    case lists:keyfind(Id, 1, supervisor:which_children(Sup)) of
        {_, Pid, _, _} when is_pid(Pid) -> Pid;
        _ -> exit({noproc, {?MODULE, child, [Sup, Id]}})
    end.

-spec init({atom(), hornbeam_config:config(), file:filename(), hornbeam_listener:opened()}) ->
    {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init({Name, Config, Python, Opened}) ->
    Children = [
        #{id => hornbeam_workers_sup,
          start => {hornbeam_workers_sup, start_link, [Name, Config]},
          type => supervisor, shutdown => infinity},
        %% Pool and listener bound their own ends by the options; see their terminate/2.
        #{id => hornbeam_pool,
          start => {hornbeam_pool, start_link, [Name, Config, Python]},
          shutdown => infinity},
        #{id => hornbeam_listener,
          start => {hornbeam_listener, start_link, [Name, Config, Opened]},
          shutdown => infinity}
    ] ++ hornbeam_watcher:child_specs(Name, Config, Python),
    {ok, {#{strategy => rest_for_one, intensity => 10, period => 10}, Children}}.
