%% SPDX-License-Identifier: Apache-2.0

%% @private One supervisor for each started server, by name.
%%
%% Nobody would repeat the calls that have started the servers, so what they were started with is in a
%% table of the application: if this process dies, its successor starts them again. Rows:
%% `{Name, [Name, Config, Python, Opened]}', the arguments of {@link hornbeam_server_sup}. They are
%% written by this process when it starts a server, and deleted by whoever stops it.
-module(hornbeam_servers_sup).

-behaviour(supervisor).

%% API
-export([create_table/0]).
-export([start_link/0]).
-export([start_server/3]).
-export([stop_server/1]).
-export([server_sup/1]).
-export([names/0]).

%% supervisor
-export([init/1]).

%% internal
-export([start_child/1]).

-type args() :: [atom() | hornbeam_config:config() | file:filename() | hornbeam_listener:opened()].

-define(TABLE, ?MODULE).
%% While this process is being restarted its callers try again, so often at most.
-define(RETRY_MS, 20).
-define(MAX_RETRIES, 250).

%% @doc The caller owns the table. Public: the row of a server that is being stopped has to be gone
%% whatever becomes of this process meanwhile.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public]),
    ok.

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec start_server(atom(), hornbeam_config:config(), file:filename()) ->
    {ok, pid()} | {error, already_started | term()}.
start_server(Name, Config, Python) ->
    Spec = spec([Name, Config, Python, hornbeam_listener:new_opened(Config)]),
    case again(fun() -> supervisor:start_child(?MODULE, Spec) end) of
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
    try end_and_forget(Name)
    catch
        %% All servers have ended, with the application.
        exit:{noproc, ?MODULE} -> {error, not_found}
    end.

end_and_forget(Name) ->
    true = ets:delete(?TABLE, Name),
    _ = [end_child(Sup, Id) || Sup <- [server_sup(Name)], is_pid(Sup),
                               Id <- [hornbeam_watcher, hornbeam_listener, hornbeam_pool]],
    case again(fun() -> supervisor:terminate_child(?MODULE, Name) end) of
        ok ->
            %% Once more: it may have been restarted since. Nobody starts it as long as it is known.
            true = ets:delete(?TABLE, Name),
            ok = hornbeam_selection:forget(Name),
            _ = again(fun() -> supervisor:delete_child(?MODULE, Name) end),
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
    case lists:keyfind(Name, 1, children()) of
        {_, Pid, _, _} when is_pid(Pid) -> Pid;
        _ -> undefined
    end.

-spec names() -> [atom()].
names() ->
    lists:sort([Name || {Name, _, _, _} <- children()]).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {Open, Starting} = lists:partition(fun has_been_open/1, ets:tab2list(?TABLE)),
    %% Who starts one of these gets an error.
    lists:foreach(fun({Name, _}) -> ets:delete(?TABLE, Name) end, Starting),
    {ok, {#{strategy => one_for_one, intensity => 10, period => 10},
          [spec(Args) || {_, Args} <- Open]}}.

%% @private Runs in this process: what is in the table is what this process has been told to run.
-spec start_child(args()) -> supervisor:startlink_ret().
start_child(Args = [Name | _]) ->
    true = ets:insert(?TABLE, {Name, Args}),
    apply(hornbeam_server_sup, start_link, Args).

spec(Args = [Name | _]) ->
    #{id => Name, start => {?MODULE, start_child, [Args]}, type => supervisor,
      shutdown => infinity}.

has_been_open({_, [_, _, _, Opened]}) ->
    hornbeam_listener:has_been_open(Opened).

children() ->
    again(fun() -> supervisor:which_children(?MODULE) end).

again(Call) ->
    again(Call, ?MAX_RETRIES).

%% Where the application ends there will be no other.
again(Call, Retries) ->
    try Call()
    catch
        exit:{Reason, {gen_server, call, _}} when Retries > 0, Reason =/= timeout ->
            _ = whereis(hornbeam_sup) =/= undefined orelse exit({noproc, ?MODULE}),
            receive after ?RETRY_MS -> ok end,
            again(Call, Retries - 1)
    end.
