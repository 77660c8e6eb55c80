%% SPDX-License-Identifier: Apache-2.0

%% @private One supervisor for each started server, by name.
-module(hornbeam_servers_sup).

-behaviour(supervisor).

%% API
-export([start_link/0]).
-export([start_server/3]).
-export([stop_server/1]).
-export([server_sup/1]).
-export([names/0]).

%% supervisor
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec start_server(atom(), hornbeam_config:config(), file:filename()) ->
    {ok, pid()} | {error, already_started | term()}.
start_server(Name, Config, Python) ->
    Spec = #{id => Name,
             start => {hornbeam_server_sup, start_link,
                       [Name, Config, Python, hornbeam_listener:new_opened(Config)]},
             type => supervisor, shutdown => infinity},
    case supervisor:start_child(?MODULE, Spec) of
        {ok, Pid} when is_pid(Pid) -> {ok, Pid};
        {error, {already_started, _}} -> {error, already_started};
        {error, already_present} -> {error, already_started};
        {error, Reason} -> {error, Reason}
    end.

%% @doc End a server and forget it. Waits for its orderly end.
%%
%% What takes time is done in the server's own supervisor: other servers do not wait for it.
-spec stop_server(atom()) -> ok | {error, not_found}.
stop_server(Name) ->
    _ = [end_child(Sup, Id) || Sup <- [server_sup(Name)], is_pid(Sup),
                               Id <- [hornbeam_watcher, hornbeam_listener, hornbeam_pool]],
    case supervisor:terminate_child(?MODULE, Name) of
        ok ->
            _ = supervisor:delete_child(?MODULE, Name),
            ok;
        {error, not_found} ->
            {error, not_found}
    end.

%% Somebody else may have stopped the server meanwhile.
end_child(Sup, Id) ->
    try supervisor:terminate_child(Sup, Id)
    catch exit:_ -> ok
    end.

-spec server_sup(atom()) -> pid() | undefined.
server_sup(Name) ->
    case lists:keyfind(Name, 1, supervisor:which_children(?MODULE)) of
        {_, Pid, _, _} when is_pid(Pid) -> Pid;
        _ -> undefined
    end.

-spec names() -> [atom()].
names() ->
    lists:sort([Name || {Name, _, _, _} <- supervisor:which_children(?MODULE)]).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{strategy => one_for_one, intensity => 10, period => 10}, []}}.
